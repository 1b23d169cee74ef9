"""The paper's networks and their variants, an eighth as wide, on CIFAR-10: one settings file for all its claims.

    python -m xception_jax.main --config=experiments/cifar10/config.py:inception_v3 --config.data.path=FOLDER

All variants have the same data, augmentation, batch size, one epoch and, but for "paper_recipe" and "modern_recipe",
the same optimizer. A run takes minutes on one core. Xception has 341,010 parameters, Inception V3 344,370.
"""

from typing import Any

from ml_collections import ConfigDict

from xception_jax.config import default
from xception_jax.errors import UserError, suggest

# What differs from "xception", by variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "xception": {},
    "inception_v3": {"model.name": "inception_v3"},
    # As Chollet published it in 2016, which gives the paper's count: normalization after the ReLU, biases.
    "inception_v3_2016": {"model.name": "inception_v3", "model.flavour": "paper"},
    "no_residual": {"model.residual": False},
    "relu_between": {"model.between": "relu"},
    "elu_between": {"model.between": "elu"},
    # Two layers of twice the width of the features, as the paper's 4096 are to 2048.
    "xception_fc": {"model.hidden": (512, 512)},
    "inception_v3_fc": {"model.name": "inception_v3", "model.hidden": (512, 512)},
    # The spectrum between a regular convolution (1 segment) and a depthwise one, with about as many parameters.
    "segments_1": {"model.segments": 1, "model.width": 0.04},
    "segments_2": {"model.segments": 2, "model.width": 0.06},
    "segments_4": {"model.segments": 4, "model.width": 0.072},
    "segments_16": {"model.segments": 16, "model.width": 0.104},
    # Section 4.3, but for the batch size, for which the paper's is not known.
    "paper_recipe": {
        "learning_rate": 0.045,
        "schedule.name": "exponential",
        "schedule.warmup": "0 steps",
        "optimizer.weight_decay": 1e-5,
        "model.dropout": 0.5,
    },
    "modern_recipe": {
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 0.05,
        "learning_rate": 2e-3,
        "label_smoothing": 0.1,
        "model.drop_path": 0.05,
    },
}


def get_config(variant: str = "xception") -> ConfigDict:
    """Settings of a variant.

    Raises:
      UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise UserError(f'experiments/cifar10/config.py has no variant "{variant}"; {suggest(variant, VARIANTS)}')
    c = default()
    c.image_size = 32
    c.batch_size = 64
    c.num_epochs = 1.0
    c.model.stem = "small"
    c.model.width = 0.125
    c.model.bn_momentum = 0.9  # few steps: the running statistics must follow quickly
    c.data.name = "experiments.cifar10.data:open_split"
    c.data.test_split = "test"
    c.data.crop_area = (0.6, 1.0)
    c.data.crop_fraction = 1.0
    c.learning_rate = 0.1
    c.schedule.name = "cosine"
    c.schedule.warmup = "0.05 epochs"
    c.optimizer.weight_decay = 1e-4
    c.average_decay = 0.99
    c.evaluation.every = "0.25 epochs"
    c.update_from_flattened_dict(VARIANTS[variant])
    return c
