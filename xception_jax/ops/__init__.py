"""Operators: each with a plain `lax` reference and faster lowerings for specific platforms."""

from xception_jax.ops.affine import affine, batch_statistics, scale_and_shift
from xception_jax.ops.convolution import conv_general_dilated
from xception_jax.ops.lowering import Lowering, Platform, as_reference, current, for_platform, use
from xception_jax.ops.normalization import batch_norm
from xception_jax.ops.pooling import affine_max_pool, avg_pool, max_pool
from xception_jax.ops.separable import normalized_separable_conv
from xception_jax.ops.trust import trusted

__all__ = [
    "Lowering",
    "Platform",
    "affine",
    "affine_max_pool",
    "as_reference",
    "avg_pool",
    "batch_norm",
    "batch_statistics",
    "conv_general_dilated",
    "current",
    "for_platform",
    "max_pool",
    "normalized_separable_conv",
    "scale_and_shift",
    "trusted",
    "use",
]
