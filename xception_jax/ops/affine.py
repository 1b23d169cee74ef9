"""Batch statistics, and what normalization comes to once they are known: a factor and a summand a channel.

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

    The gradient keeps nothing but x. Derivatives of every order by reverse mode.
    """
    return moments(x)


def moments(x: Float[Array, "*B C"]) -> tuple[Vector, Vector]:
    """`batch_statistics` with its automatic derivatives."""
    axes = tuple(range(x.ndim - 1))
    mean = wide(x).mean(axes)
    return mean, variance(mean, jnp.square(wide(x)).mean(axes))


def variance(mean: Vector, mean_square: Vector) -> Vector:
    """Of the two means; rounding could make it negative."""
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
    """What batch normalization by these statistics multiplies by, and what it adds, as `affine` takes them."""
    # Not (x - mean) a + bias: the gradient has x - mean too, and compilers keep what both have.
    a = lax.rsqrt(variance + epsilon) * scale
    return a, bias - mean * a


def affine(x: Float[Array, "*B C"], scale: Vector, shift: Vector) -> Float[Array, "*B C"]:
    """x * scale + shift, computed in float32 and rounded to x's dtype once."""
    return (wide(x) * row(scale, x) + row(shift, x)).astype(x.dtype)


def row(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[C] as [1, ..., 1, C], of x's rank."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def wide(x: jax.Array) -> jax.Array:
    """In the dtype that sums are taken in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
