"""Normalization, ReLU, separable convolution and the statistics of its result, as one operator for GPUs and TPUs.

An Xception has nothing else between two batch normalizations. A map is normalized when it is read. The normalized map
is never written in the forward pass, which saves a read and a write of main memory.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import jax
from jaxtyping import Array, Float

from xception_jax.ops import reference
from xception_jax.ops.affine import variance
from xception_jax.ops.gpu import separable as separable_gpu
from xception_jax.ops.lowering import current
from xception_jax.ops.reference import Parameters, Settings
from xception_jax.ops.tpu import separable as separable_tpu


def normalized_separable_conv(
    x: Float[Array, "B H W C"],
    scale: Float[Array, " C"],
    shift: Float[Array, " C"],
    depthwise: Float[Array, "3 3 1 C"],
    pointwise: Float[Array, "1 1 C D"],
    *,
    relu: bool,
    dilation: int = 1,
) -> tuple[Float[Array, "B H W D"], Float[Array, " D"], Float[Array, " D"]]:
    """The separable convolution of x * scale + shift, or of its ReLU; symmetric padding, stride 1.

    Differentiable to any order in reverse mode.

    Args:
      x: float32 or bfloat16.
      scale, shift: float32.
      depthwise, pointwise: with x's dtype.

    Returns:
      The result, with x's dtype; each channel's mean and (biased) variance over B, H and W, float32.
    """
    weights, settings = Parameters(scale, shift, depthwise, pointwise), Settings(relu, dilation)
    y, sums = _convolve(x, weights, settings)
    mean, mean_square = sums / (y.size // y.shape[-1])
    return y, mean, variance(mean, mean_square)


def _convolve(x: jax.Array, weights: Parameters, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Same as `reference.convolve`."""
    if current().fast("separable", on="gpu"):
        return separable_gpu.convolve(x, weights, settings)
    if current().fast("separable", on="tpu") and separable_tpu.takes(x, weights.pointwise, settings):
        return separable_tpu.convolve(x, weights, settings)
    return reference.convolve(x, weights, settings)
