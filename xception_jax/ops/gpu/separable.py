"""`reference.convolve` for GPUs: what it reads and writes in main memory, and keeps, is what counts.

The depthwise convolution normalizes what it reads, in one kernel; so are its gradients, and those of what is before it.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name

from xception_jax.ops.affine import row, wide
from xception_jax.ops.gpu.depthwise_backward import depthwise_backward
from xception_jax.ops.gpu.depthwise_forward import depthwise_forward
from xception_jax.ops.reference import Parameters, Settings, pointwise_conv, sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, weights: Parameters, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Keeps x, the result and what is between the convolutions for the backward pass."""
    return _forward(x, weights, settings)[0]


def _forward(x: jax.Array, weights: Parameters, settings: Settings) -> tuple:
    middle = depthwise_forward(x, weights.scale, weights.shift, weights.depthwise, settings)
    middle = checkpoint_name(middle, "depthwise")
    y = checkpoint_name(pointwise_conv(middle, weights.pointwise), "convolution")
    return (y, checkpoint_name(sums(y), "statistics")), (x, weights, middle, y)


def _backward(settings: Settings, residuals: tuple, cotangents: tuple) -> tuple:
    x, weights, middle, y = residuals
    to_y, to_sums = cotangents
    to_sum, to_square = (row(t, y) for t in to_sums)
    to_y = (wide(to_y) + to_sum + 2 * to_square * wide(y)).astype(y.dtype)
    to_middle, to_pointwise = jax.vjp(pointwise_conv, middle, weights.pointwise)[1](to_y)
    to_x, to_scale, to_shift, to_depthwise = depthwise_backward(
        x, weights.scale, weights.shift, weights.depthwise, to_middle, settings
    )
    return to_x, Parameters(to_scale, to_shift, to_depthwise, to_pointwise)


convolve.defvjp(_forward, _backward)
