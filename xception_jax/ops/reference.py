"""Normalization, ReLU and separable convolution in `lax`, with automatic derivatives: the reference for the kernels.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from xception_jax.ops.affine import Vector, affine, wide
from xception_jax.ops.cpu.dense import NHWC

Maps = Float[Array, "B H W C"]


class Parameters(NamedTuple):
    """The parameters: the affine function before the ReLU (float32), and the two kernels, with the maps' dtype."""

    scale: Vector
    shift: Vector
    depthwise: Float[Array, "3 3 1 C"]
    pointwise: Float[Array, "1 1 C D"]


class Settings(NamedTuple):
    """Static settings: whether there is a ReLU, and the dilation of the depthwise convolution."""

    relu: bool
    dilation: int


def convolve(x: Maps, weights: Parameters, settings: Settings) -> tuple[Float[Array, "B H W D"], Float[Array, "2 D"]]:
    """The separable convolution of `affine_relu`, with its sum and sum of squares over B, H and W."""
    middle = depthwise_conv(affine_relu(x, weights.scale, weights.shift, settings), weights.depthwise, settings)
    y = pointwise_conv(middle, weights.pointwise)
    return y, sums(y)


def affine_relu(x: Maps, scale: Vector, shift: Vector, settings: Settings) -> Maps:
    """x * scale + shift, or its ReLU."""
    x = affine(x, scale, shift)
    return jax.nn.relu(x) if settings.relu else x


def depthwise_conv(x: Maps, kernel: Float[Array, "3 3 1 C"], settings: Settings) -> Maps:
    """A depthwise convolution with symmetric padding and stride 1."""
    d = settings.dilation
    return lax.conv_general_dilated(
        x, kernel, (1, 1), [(d, d)] * 2, rhs_dilation=(d, d), dimension_numbers=NHWC, feature_group_count=x.shape[-1]
    )


def pointwise_conv(x: Maps, kernel: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    """A 1x1 convolution."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)


def sums(y: Float[Array, "B H W D"]) -> Float[Array, "2 D"]:
    """Each channel's sum and sum of squares, float32."""
    return jnp.stack([wide(y).sum((0, 1, 2)), jnp.square(wide(y)).sum((0, 1, 2))])
