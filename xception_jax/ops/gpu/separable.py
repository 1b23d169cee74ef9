"""`reference.convolve` for GPUs: what it reads and writes in main memory, and keeps, is what counts.

The depthwise convolution normalizes what it reads; its gradients, and those of what comes before it, are one kernel.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from xception_jax.ops.affine import row, wide
from xception_jax.ops.gpu.depthwise_backward import depthwise_backward
from xception_jax.ops.reference import Parameters, Settings, affine_relu, pointwise_conv, sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, weights: Parameters, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Keeps x, the result and what is between the convolutions for the backward pass."""
    return _forward(x, weights, settings)[0]


def _forward(x: jax.Array, weights: Parameters, settings: Settings) -> tuple:
    middle = checkpoint_name(_depthwise_of_affine(x, weights, settings), "depthwise")
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


def _depthwise_of_affine(x: jax.Array, weights: Parameters, settings: Settings) -> jax.Array:
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
