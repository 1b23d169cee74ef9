"""Pooling. Shape legend: B batch, H height, W width, h, w height and width of the output, C channels."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from xception_jax.ops.affine import affine, row, wide
from xception_jax.ops.lowering import current
from xception_jax.ops.tpu import pooling as pooling_tpu

Padding = str | Sequence[tuple[int, int]]


def max_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding, dilation: int = 1
) -> Float[Array, "B h w C"]:
    """Maximum over `window` x `window` pixels that are `dilation` apart, every `stride` pixels.

    The gradient goes to the first maximum of a window in row-major order, on every platform. Differentiable to any
    order in reverse mode, and in forward mode over reverse.

    Args:
      x: float32 or bfloat16.
      padding: "SAME" (asymmetric where needed, as in TensorFlow), "VALID", or ((top, bottom), (left, right)).
    """
    if current().fast("max pool", on="gpu"):
        rows, columns = _pixels_around(x, window, stride, padding, dilation)
        return _indexed_max_pool(x, Windows(window, stride, dilation, rows, columns))
    if dilation != 1 or current().fast("max pool", on="cpu"):  # nnx.max_pool has no dilation
        return _separable_max_pool(x, window, stride, padding, dilation)
    return nnx.max_pool(x, (window, window), strides=(stride, stride), padding=padding)


def affine_max_pool(
    x: Float[Array, "B H W C"],
    scale: Float[Array, " C"],
    shift: Float[Array, " C"],
    window: int,
    stride: int,
    padding: Padding,
    dilation: int = 1,
) -> Float[Array, "B h w C"]:
    """`max_pool` of `affine(x, scale, shift)`; on GPUs and TPUs, `affine` is applied after pooling.

    The result is bit-identical: an increasing function can be applied to the maximum, and for negative scales the
    minimum is taken. If rounding makes pixels of a window equal, the gradient goes to the one that was larger before.
    """
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
    if current().fast("max pool", on="gpu"):
        sign = row(sign, x)
        return affine(sign * max_pool(sign * x, window, stride, padding, dilation), scale, shift)
    around = pooling_tpu.Border(*_pixels_around(x, window, stride, padding, dilation))
    if current().fast("max pool", on="tpu") and pooling_tpu.takes(x, window, stride, around, dilation):
        return affine(pooling_tpu.signed_max_pool(x, sign, around), scale, shift)
    return max_pool(affine(x, scale, shift), window, stride, padding, dilation)


def _pixels_around(
    x: jax.Array, window: int, stride: int, padding: Padding, dilation: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The padding: rows above and below, columns left and right."""
    extent = (window - 1) * dilation + 1
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (extent, extent), (stride, stride), padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def _separable_max_pool(x: jax.Array, window: int, stride: int, padding: Padding, dilation: int) -> jax.Array:
    """Maxima along W, then along H."""
    rows, columns = _pixels_around(x, window, stride, padding, dilation)
    # Computed in float32: the CPU emulates bfloat16, and the gradient is a sum where windows overlap.
    y = wide(x)
    for axis, around in ((2, columns), (1, rows)):
        y = _line_max_pool(y, Line(axis, y.shape[axis], around, window, stride, dilation))
    return y.astype(x.dtype)


class Line(NamedTuple):
    """Windows along one axis of `length` pixels: the padding `around` them, window size, stride and dilation."""

    axis: int
    length: int
    around: tuple[int, int]
    side: int
    stride: int
    dilation: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _line_max_pool(x: jax.Array, line: Line) -> jax.Array:
    """Maxima along one axis. The gradient is a sum over taps, instead of `reduce_window`'s scatter."""
    return _line_forward(x, line)[0]


def _line_forward(x: jax.Array, line: Line) -> tuple[jax.Array, jax.Array]:
    y = lax.pad(x, jnp.array(-jnp.inf, x.dtype), _only(line.axis, (*line.around, 0), x.ndim))
    return _first_maximum(_taps(y, line.axis, line))


def _line_backward(line: Line, index: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    """Tap i of all windows is every `stride`-th pixel: its gradient is padded with zeros between and around."""
    reach = (cotangent.shape[line.axis] - 1) * line.stride + 1  # from the first window's pixel to the last window's
    total = jnp.zeros((), cotangent.dtype)
    for i in range(line.side):
        low = i * line.dilation - line.around[0]
        spread = _only(line.axis, (low, line.length - low - reach, line.stride - 1), cotangent.ndim)
        total += lax.pad(jnp.where(index == i, cotangent, 0), jnp.zeros((), cotangent.dtype), spread)
    return (total,)


_line_max_pool.defvjp(_line_forward, _line_backward)


def _only(axis: int, padding: tuple[int, int, int], ndim: int) -> list[tuple[int, int, int]]:
    """`lax.pad`'s configuration for one axis."""
    return [padding if i == axis else (0, 0, 0) for i in range(ndim)]


def _taps(y: jax.Array, axis: int, windows: "Line | Windows") -> list[jax.Array]:
    """For each tap of the windows, its pixels along the padded axis."""
    extent = (windows.side - 1) * windows.dilation
    starts = range(0, extent + 1, windows.dilation)
    return [lax.slice_in_dim(y, i, i + y.shape[axis] - extent, windows.stride, axis) for i in starts]


def _first_maximum(taps: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The maximum (NaN if any tap is NaN), and the index of its first occurrence, as int8 if it fits."""
    number = jnp.int8 if len(taps) <= 128 else jnp.int32
    best, index = taps[0], jnp.zeros(taps[0].shape, number)
    for i, tap in enumerate(taps[1:], 1):
        keep = (best >= tap) | jnp.isnan(best)
        best, index = jnp.where(keep, best, tap), jnp.where(keep, index, number(i))
    return best, index


class Windows(NamedTuple):
    """A pool's windows: their size, stride, dilation and padding."""

    side: int
    stride: int
    dilation: int
    rows: tuple[int, int]
    columns: tuple[int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _indexed_max_pool(x: jax.Array, windows: Windows) -> jax.Array:
    """For GPUs: one pass over x; the gradient is computed from the indices of the maxima, where it is needed."""
    return _maxima(x, windows)[0]


def _maxima(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """Each window's maximum and its index in the window, row * side + column."""
    y = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), (*windows.rows, 0), (*windows.columns, 0), (0, 0, 0)))
    return _first_maximum([tap for line in _taps(y, 1, windows) for tap in _taps(line, 2, windows)])


def _forward(x: jax.Array, windows: Windows) -> tuple:
    best, index = _maxima(x, windows)
    return best, (checkpoint_name(index, "maxima"), jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _backward(windows: Windows, residuals: tuple, cotangent: jax.Array) -> tuple[jax.Array]:
    """Each pixel collects the gradients of the windows whose maximum it is."""
    index, like = residuals
    total = jnp.zeros((), wide(cotangent).dtype)
    for rows, row_pixel in _windows_of_pixels(like.shape[1], windows.rows[0], windows):
        for columns, column_pixel in _windows_of_pixels(like.shape[2], windows.columns[0], windows):
            missed = (row_pixel[:, None] < 0) | (column_pixel < 0)
            pixel = np.where(missed, -1, row_pixel[:, None] * windows.side + column_pixel).astype(index.dtype)

            def spread(x: jax.Array, empty: int, shifts: tuple[int, int] = (rows, columns)) -> jax.Array:
                """At each pixel, the value of `x` for its window; `empty` if there is no such window."""
                for axis, shift in zip((1, 2), shifts, strict=True):
                    x = _stretch(x, axis, windows.stride, shift, like.shape[axis], empty)
                return x

            total += jnp.where(spread(index, -2) == pixel[None, :, :, None], wide(spread(cotangent, 0)), 0)
    return (total.astype(like.dtype),)


_indexed_max_pool.defvjp(_forward, _backward)


def _windows_of_pixels(length: int, low: int, windows: Windows) -> Iterator[tuple[int, np.ndarray]]:
    """Along one axis, a window of each pixel and the pixel's index in it, -1 if the window skips the pixel.

    Padded pixel p is in window p // stride - a for a = 0, 1, ..., up to the window size. Yields, for each a, the shift
    that aligns the windows, each repeated `stride` times, with their pixels; and the indices.
    """
    extent = (windows.side - 1) * windows.dilation + 1
    for start in range(0, extent, windows.stride):
        offset = (np.arange(length) + low) % windows.stride + start
        number = np.where((offset < extent) & (offset % windows.dilation == 0), offset // windows.dilation, -1)
        if (number >= 0).any():
            yield start - low, number


def _stretch(x: jax.Array, axis: int, times: int, shift: int, length: int, empty: int) -> jax.Array:
    """Each entry of an axis repeated `times` times, shifted by `shift`, and cropped or padded to `length`."""
    shape = list(x.shape)
    shape[axis] *= times
    x = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
    padding = (shift, length - shift - shape[axis], 0)
    return lax.pad(x.reshape(shape), jnp.array(empty, x.dtype), _only(axis, padding, len(shape)))


def avg_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: Padding, *, count_padding: bool
) -> Float[Array, "B h w C"]:
    """Mean over `window` x `window`, every `stride` pixels.

    `count_padding`: whether padded zeros count in the mean (as in PyTorch) or not (as in Keras).
    """
    return nnx.avg_pool(x, (window, window), strides=(stride, stride), padding=padding, count_include_pad=count_padding)
