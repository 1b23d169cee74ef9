"""Your own images, in folders split/class/image, with the splits train, validation and test.

    python -m xception_jax.main --config=configs/folder.py --config.data.path=FOLDER --workdir=DIR

`--config.model.name=inception_v3` trains the baseline; `--config.model.weights=imagenet --config.learning_rate=0.0003`
starts from weights trained on ImageNet. On a CPU, use `--config.image_size=96`.
"""

from ml_collections import ConfigDict

from xception_jax.config import default


def get_config() -> ConfigDict:
    """Settings."""
    c = default()
    c.num_epochs = 30.0
    c.data.name = "folder"
    c.data.test_split = "test"
    c.data.crop_area = (0.25, 1.0)  # few images, of a single object each: milder crops than ImageNet's
    c.model.dropout = 0.5
    c.model.bn_momentum = 0.9  # few steps: the running statistics must follow quickly
    c.optimizer.name = "adamw"  # at small batches SGD at the paper's rate diverges on a few thousand images
    c.optimizer.weight_decay = 0.05
    c.learning_rate = 0.001
    c.schedule.name = "cosine"
    c.schedule.warmup = "1 epochs"
    c.label_smoothing = 0.1
    c.average_decay = 0.99
    c.log_every = "10 steps"
    return c
