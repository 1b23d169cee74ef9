"""Operators: each with its plain `lax` reference and the lowerings that are faster on a platform."""

from xception_jax.ops.affine import affine, batch_statistics, scale_and_shift
from xception_jax.ops.convolution import conv_general_dilated
from xception_jax.ops.lowering import fast_on_gpu, fused, platform, reference, set_lowering, use_reference
from xception_jax.ops.normalization import batch_norm
from xception_jax.ops.pooling import affine_max_pool, avg_pool, max_pool
from xception_jax.ops.separable import normalized_separable_conv

__all__ = [
    "affine",
    "affine_max_pool",
    "avg_pool",
    "batch_norm",
    "batch_statistics",
    "conv_general_dilated",
    "fast_on_gpu",
    "fused",
    "max_pool",
    "normalized_separable_conv",
    "platform",
    "reference",
    "scale_and_shift",
    "set_lowering",
    "use_reference",
]
