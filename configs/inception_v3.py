"""Inception V3 on ImageNet with the paper's settings (section 4.3), the baseline of `configs/xception.py`.

    python -m xception_jax.main --config=configs/inception_v3.py --workdir=DIR

The paper reports top-1 0.782 and top-5 0.941, without the auxiliary tower. This config: unmeasured. The network has
the paper's 23,626,728 parameters; `--config.model.flavour=torchvision` is the usual variant.
"""

from ml_collections import ConfigDict

from xception_jax.config import default


def get_config() -> ConfigDict:
    """Settings."""
    c = default()
    c.model.name = "inception_v3"
    c.model.flavour = "paper"
    c.model.dropout = 0.5
    c.optimizer.weight_decay = 4e-5
    return c
