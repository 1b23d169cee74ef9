"""Batch statistics, and the affine function that normalization reduces to once they are known.

Shape legend: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Vector = Float[Array, " C"]


@jax.custom_vjp
def batch_statistics(x: Float[Array, "*B C"]) -> tuple[Vector, Vector]:
    """Each channel's mean and (biased) variance over all other axes, float32, in one pass over x.

    The gradient saves only x. Differentiable to any order in reverse mode.
    """
    return moments(x)


def moments(x: Float[Array, "*B C"]) -> tuple[Vector, Vector]:
    """`batch_statistics` with automatic derivatives."""
    axes = tuple(range(x.ndim - 1))
    mean = wide(x).mean(axes)
    return mean, variance(mean, jnp.square(wide(x)).mean(axes))


def variance(mean: Vector, mean_square: Vector) -> Vector:
    """The variance from the two means, clipped because rounding could make it negative."""
    return jnp.maximum(mean_square - jnp.square(mean), 0)


def _forward(x: jax.Array) -> tuple:
    mean, var = (checkpoint_name(s, "statistics") for s in moments(x))
    return (mean, var), (x, mean)


def _backward(residuals: tuple, cotangents: tuple) -> tuple[jax.Array]:
    x, mean = residuals
    to_mean, to_variance = cotangents
    count = x.size // x.shape[-1]
    to_x = (row(to_mean, x) + 2 * row(to_variance, x) * (wide(x) - row(mean, x))) / count
    return (to_x.astype(x.dtype),)


batch_statistics.defvjp(_forward, _backward)


def scale_and_shift(
    mean: Vector, variance: Vector, scale: Vector, bias: Vector, epsilon: float
) -> tuple[Vector, Vector]:
    """The scale and the shift of batch normalization by these statistics, for `affine`."""
    # Not (x - mean) a + bias: the gradient contains x - mean, too, and compilers would save it for both.
    a = lax.rsqrt(variance + epsilon) * scale
    return a, bias - mean * a


def affine(x: Float[Array, "*B C"], scale: Vector, shift: Vector) -> Float[Array, "*B C"]:
    """x * scale + shift, computed in float32 and rounded once to x's dtype."""
    return (wide(x) * row(scale, x) + row(shift, x)).astype(x.dtype)


def row(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes [C] to [1, ..., 1, C], with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def wide(x: jax.Array) -> jax.Array:
    """Converts to the dtype used for sums."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
