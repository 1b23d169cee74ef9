"""Pooling. Shape legend: B batch, H height, W width, h, w those of the output, C channels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from xception_jax.ops.lowering import fast_on_cpu

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding, dilation: int = 1
) -> Float[Array, "B h w C"]:
    """Maximum over `window` x `window` pixels that are `dilation` apart, every `stride` pixels.

    The gradient goes to the first maximum of a window, row by row, on every platform.

    Args:
      x: float32 or bfloat16.
      padding: "SAME" (asymmetric where needed, as in TensorFlow), "VALID", or ((top, bottom), (left, right)).
    """
    if dilation != 1 or fast_on_cpu():  # nnx.max_pool knows no dilation
        return _separable_max_pool(x, window, stride, padding, dilation)
    return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=padding)


def _separable_max_pool(x: jax.Array, window: int, stride: int, padding: Padding, dilation: int) -> jax.Array:
    """Maxima along W, then along H. The automatic gradient is selects and sums; `reduce_window`'s is a scatter."""
    extent = (window - 1) * dilation + 1
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (extent, extent), (stride, stride), padding)
    (top, bottom), (left, right) = padding
    # float32 within: the CPU emulates bfloat16, and where windows overlap the gradient is a sum.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = lax.pad(x.astype(wide), jnp.array(-jnp.inf, wide), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))
    for axis in (2, 1):
        starts = y.shape[axis] - extent + 1  # first pixels that windows can have
        first, *later = [lax.slice_in_dim(y, i, i + starts, stride, axis) for i in range(0, extent, dilation)]
        for candidate in later:
            first = _first_larger(first, candidate)
        y = first
    return y.astype(x.dtype)


def _first_larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger one, NaN if either is. The gradient is `a`'s where they are equal (`jnp.maximum` would halve it)."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def avg_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding, *, count_padding: bool
) -> Float[Array, "B h w C"]:
    """Mean over `window` x `window`, every `stride` pixels.

    `count_padding` tells whether padded zeros count in the mean, as in PyTorch, or not, as in Keras.
    """
    return nnx.avg_pool(x, (window, window), strides=(stride, stride), padding=padding, count_include_pad=count_padding)
