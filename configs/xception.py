"""Xception on ImageNet with the paper's settings (section 4.3): SGD, dropout 0.5, weight decay 1e-5, averaged weights.

    python -m xception_jax.main --config=configs/xception.py --workdir=DIR

The paper reports top-1 0.790 and top-5 0.945. This config: unmeasured. The paper does not state the batch size, length,
augmentation or averaging decay. They are taken from the Inception papers (32 per replica, area-and-aspect crops,
0.9999), for one replica. For more replicas, raise `batch_size` and `learning_rate` together.
"""

from ml_collections import ConfigDict

from xception_jax.config import default


def get_config() -> ConfigDict:
    """Settings."""
    c = default()
    c.model.name = "xception"
    c.model.dropout = 0.5
    c.optimizer.weight_decay = 1e-5
    return c
