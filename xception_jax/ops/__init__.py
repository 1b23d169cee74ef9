"""Operators: each with its plain `lax` reference and the lowerings that are faster on a platform."""

from xception_jax.ops.convolution import conv_general_dilated
from xception_jax.ops.lowering import platform, reference, set_lowering
from xception_jax.ops.normalization import batch_norm, normalize
from xception_jax.ops.pooling import avg_pool, max_pool

__all__ = [
    "avg_pool",
    "batch_norm",
    "conv_general_dilated",
    "max_pool",
    "normalize",
    "platform",
    "reference",
    "set_lowering",
]
