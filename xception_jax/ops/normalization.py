"""Batch normalization (S. Ioffe and C. Szegedy, arXiv 1502.03167) with a gradient that saves only its input.

Shape legend: B batch, H height, W width, C channels.
"""

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from xception_jax.ops.affine import Vector, affine, moments, row, scale_and_shift, wide
from xception_jax.ops.lowering import current


def batch_norm(
    x: Float[Array, "*B C"], scale: Vector, bias: Vector, epsilon: float
) -> tuple[Float[Array, "*B C"], Vector, Vector]:
    """Normalizes each channel by its mean and variance over all other axes, then scales and shifts it.

    Automatic differentiation would save x - mean in float32 for the backward pass: another array of x's shape, with
    twice the bytes if x is bfloat16. The gradient here (section 3 of the paper) needs only x.

    Args:
      x: float32 or bfloat16; the computation is in float32 (float64 for float64).
      scale, bias: float32.
      epsilon: added to the variance.

    Returns:
      The result, with x's dtype; means and (biased) variances, float32. Differentiable to any order in reverse mode,
      and in forward mode over reverse.
    """
    return (_batch_norm if current().fast("batch norm") else _batch_norm_forward)(x, scale, bias, epsilon)


def _batch_norm_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple:
    mean, variance = moments(x)
    return affine(x, *scale_and_shift(mean, variance, scale, bias, epsilon)), mean, variance


_batch_norm = jax.custom_vjp(_batch_norm_forward, nondiff_argnums=(3,))


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple:
    mean, variance = (checkpoint_name(s, "statistics") for s in moments(x))
    y = affine(x, *scale_and_shift(mean, variance, scale, bias, epsilon))
    return (y, mean, variance), (x, scale, mean, variance)


def _backward(epsilon: float, residuals: tuple, cotangents: tuple) -> tuple:
    x, scale, mean, variance = residuals
    to_y, to_mean, to_variance = cotangents
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    centered, to_y = wide(x) - row(mean, x), wide(to_y)
    inverse = lax.rsqrt(variance + epsilon)
    to_bias = to_y.sum(axes)
    to_scale = (to_y * centered).sum(axes) * inverse
    # One fused pass: to_x = a to_y + b centered + c, where a, b and c are per channel.
    a = scale * inverse
    b = (2 * to_variance - a * inverse * to_scale) / count
    c = (to_mean - a * to_bias) / count
    to_x = row(a, x) * to_y + row(b, x) * centered + row(c, x)
    return to_x.astype(x.dtype), to_scale, to_bias


_batch_norm.defvjp(_forward, _backward)
