"""Normalization, ReLU, separable convolution and the statistics of its result, as one operator for GPUs.

Between two batch normalizations an Xception has nothing else. A map is normalized where it is read: the normalized one,
a read and a write of main memory more, is never written forward.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from xception_jax.ops.affine import row, variance, wide
from xception_jax.ops.dense import NHWC
from xception_jax.ops.depthwise_backward import Settings, affine_relu, depthwise_backward


class Weights(NamedTuple):
    """What is not a map: of the affine function before the ReLU (float32 [C]), and the two kernels."""

    scale: jax.Array
    shift: jax.Array
    depthwise: jax.Array
    pointwise: jax.Array


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

    Derivatives of every order by reverse mode.

    Args:
      x: float32 or bfloat16.
      scale, shift: float32.
      depthwise, pointwise: of x's dtype.

    Returns:
      The result, of x's dtype; each channel's mean and (biased) variance over B, H and W, float32.
    """
    y, sums = _convolve(x, Weights(scale, shift, depthwise, pointwise), Settings(relu, dilation))
    mean, mean_square = sums / (y.size // y.shape[-1])
    return y, mean, variance(mean, mean_square)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, weights: Weights, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """The result, and its sum and sum of squares, float32 [2, D]."""
    return _forward(x, weights, settings)[0]


def _forward(x: jax.Array, weights: Weights, settings: Settings) -> tuple:
    middle = checkpoint_name(_depthwise_of_affine(x, weights, settings), "depthwise")
    y = checkpoint_name(_pointwise(middle, weights.pointwise), "convolution")
    sums = checkpoint_name(_sums(y), "statistics")
    return (y, sums), (x, weights, middle, y)


def _backward(settings: Settings, residuals: tuple, cotangents: tuple) -> tuple:
    x, weights, middle, y = residuals
    to_y, to_sums = cotangents
    to_sum, to_square = (row(t, y) for t in to_sums)
    to_y = (wide(to_y) + to_sum + 2 * to_square * wide(y)).astype(y.dtype)
    to_middle, to_pointwise = jax.vjp(_pointwise, middle, weights.pointwise)[1](to_y)
    to_x, to_scale, to_shift, to_depthwise = depthwise_backward(
        x, weights.scale, weights.shift, weights.depthwise, to_middle, settings
    )
    return to_x, Weights(to_scale, to_shift, to_depthwise, to_pointwise)


_convolve.defvjp(_forward, _backward)


def _pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)


def _depthwise_of_affine(x: jax.Array, weights: Weights, settings: Settings) -> jax.Array:
    """The depthwise convolution of `affine_relu`, as nine shifted products that each compute what they multiply.

    Compilers would rather write the normalized map to memory than compute it nine times.
    """
    height, width = x.shape[1:3]
    d = settings.dilation
    border = ((0, 0), (d, d), (d, d), (0, 0))
    padded, inside = jnp.pad(x, border), np.pad(np.ones((1, height, width, 1), bool), border)
    total = jnp.zeros((), wide(x).dtype)
    for i, j in itertools.product(range(3), range(3)):
        part = np.s_[:, i * d : i * d + height, j * d : j * d + width]
        # What is normalized is 0 beyond the border, not what comes before it.
        tap = jnp.where(inside[part], affine_relu(padded[part], weights.scale, weights.shift, settings), 0)
        total += wide(tap) * wide(weights.depthwise[i, j].reshape(1, 1, 1, -1))
    return total.astype(x.dtype)


def _sums(y: jax.Array) -> jax.Array:
    return jnp.stack([wide(y).sum((0, 1, 2)), jnp.square(wide(y)).sum((0, 1, 2))])
