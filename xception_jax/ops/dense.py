"""Convolutions that mix all channels, for the CPU.

Shape legend: B batch, H height, W width, h, w those of the output, C channels in, D channels out, kh, kw the kernel's.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[int, int]
NHWC = ("NHWC", "HWIO", "NHWC")
# Rows of the output from which YNNPACK's gradient to the kernel is slow with horizontal padding, too.
MANY_ROWS = 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "B h w D"]:
    """`lax.conv_general_dilated`, away from YNNPACK's slow paths.

    Jaxlib 0.10 leaves convolutions to YNNPACK where it can, which takes up to 5 times as long as Eigen, and for the
    kernel's gradient (itself a convolution, with a kernel as large as the picture) up to 5 times as long as a loop.
    Derivatives of every order by reverse mode, and forward mode over reverse.

    Args:
      x: any floating-point dtype.
      kernel: of the same dtype.
      padding: zeros added (top, bottom), (left, right).
    """
    return _with_eigen(x, kernel, strides, padding)


def _plain(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)


def _with_eigen(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """Pads until the padding reaches the kernel's height, which YNNPACK refuses, and drops the rows too many."""
    (top, bottom), side = padding
    rows = (x.shape[1] + top + bottom - kernel.shape[0]) // strides[0] + 1
    enough = max(bottom, kernel.shape[0] - top)
    return _plain(x, kernel, strides, ((top, enough), side))[:, :rows]


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _with_eigen(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: Pair, padding: tuple[Pair, Pair], residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    (to_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, padding), x)(cotangent)
    if cotangent.shape[1] < MANY_ROWS and any(padding[1]):
        (to_kernel,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, padding), kernel)(cotangent)
    else:
        to_kernel = _kernel_gradient(x, cotangent, (kernel.shape[0], kernel.shape[1]), strides, padding)
    return to_x, to_kernel


dense_conv.defvjp(_forward, _backward)


def _kernel_gradient(
    x: jax.Array, cotangent: jax.Array, kernel_size: Pair, strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "kh kw C D"]:
    """One matrix product for each tap, a few rows of the output after the other, so that they stay in the cache."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (kh, kw), (_, height, width, _) = kernel_size, cotangent.shape
    rows = max(n for n in range(1, 8) if height % n == 0)

    def add_rows(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        to_y = lax.dynamic_slice_in_dim(cotangent, i * rows, rows, 1)
        lines = lax.dynamic_slice_in_dim(padded, i * rows * strides[0], (rows - 1) * strides[0] + kh, 1)
        return [total + _product(_patch(lines, tap), to_y) for total, tap in zip(sums, taps, strict=True)]

    def _patch(lines: jax.Array, tap: Pair) -> jax.Array:
        """What a tap of the kernel meets."""
        ends = (tap[0] + (rows - 1) * strides[0] + 1, tap[1] + (width - 1) * strides[1] + 1)
        return lines[:, tap[0] : ends[0] : strides[0], tap[1] : ends[1] : strides[1]]

    taps = list(itertools.product(range(kh), range(kw)))
    nothing = jnp.zeros((x.shape[-1], cotangent.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    sums = lax.fori_loop(0, height // rows, add_rows, [nothing] * len(taps))
    return jnp.stack(sums).reshape(kh, kw, *nothing.shape).astype(x.dtype)


def _product(a: Float[Array, "*N C"], b: Float[Array, "*N D"]) -> Float[Array, "C D"]:
    """The sum over all pixels of products of their channels, at least float32."""
    pixels = tuple(range(a.ndim - 1))
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, ((pixels, pixels), ((), ())), preferred_element_type=wide)
