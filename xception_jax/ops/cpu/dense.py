"""Convolutions that mix all channels, for the CPU.

Shape legend: B batch, H height, W width, h, w those of the output, C channels in, D channels out, kh, kw the kernel's.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pair = tuple[int, int]
NHWC = ("NHWC", "HWIO", "NHWC")
# Bytes of the patches that the kernel's gradient multiplies at once: they are made, and read again, within the cache.
PATCH_BYTES = 4 * 2**20


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "kh kw C D"], strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "B h w D"]:
    """`lax.conv_general_dilated`, away from YNNPACK's slow paths.

    Jaxlib 0.10 leaves convolutions to YNNPACK where it can, which takes up to twice as long as Eigen. With strides, and
    for the kernel's gradient (itself a convolution, with a kernel as large as the image), it takes up to three times
    as long as a product of patches. Derivatives of every order by reverse mode, and forward mode over reverse.

    Args:
      x: any floating-point dtype.
      kernel: of the same dtype.
      padding: zeros added (top, bottom), (left, right); none negative.
    """
    return _convolve(x, kernel, strides, padding)


def _convolve(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """`dense_conv` with its automatic derivatives."""
    if strides == (1, 1):
        return _with_eigen(x, kernel, padding)
    kh, kw, _, out_channels = kernel.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = ((n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], (kh, kw), strides, strict=True))
    product = _patches(padded, (kh, kw), strides, (h, w)) @ kernel.reshape(-1, out_channels)
    return product.reshape(len(x), h, w, out_channels)


def _patches(x: Float[Array, "B H W C"], kernel_size: Pair, strides: Pair, size: Pair) -> Float[Array, "Bhw khkwC"]:
    """What a kernel meets at each of h x w places, from the first pixel on."""
    (kh, kw), (down, right), (h, w) = kernel_size, strides, size
    bottom, end = (h - 1) * down + 1, (w - 1) * right + 1
    taps = [x[:, i : i + bottom : down, j : j + end : right] for i in range(kh) for j in range(kw)]
    # Of one axis of pixels: a product over three is up to twice as slow.
    return jnp.concatenate(taps, -1).reshape(-1, kh * kw * x.shape[3])


def _plain(x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)


def _with_eigen(x: jax.Array, kernel: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    """Pads until the padding reaches the kernel's height, which YNNPACK refuses, and drops the rows too many."""
    (top, bottom), side = padding
    rows = x.shape[1] + top + bottom - kernel.shape[0] + 1
    enough = max(bottom, kernel.shape[0] - top)
    return _plain(x, kernel, (1, 1), ((top, enough), side))[:, :rows]


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: Pair, padding: tuple[Pair, Pair], residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    to_kernel = _kernel_gradient(x, kernel, cotangent, strides, padding)
    return _input_gradient(x, kernel, cotangent, strides, padding), to_kernel


dense_conv.defvjp(_forward, _backward)


def _input_gradient(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "B H W C"]:
    """A convolution with the mirrored kernel."""
    (top, bottom), (left, right) = padding
    kh, kw = kernel.shape[0] - 1, kernel.shape[1] - 1
    margins = ((kh - top, kh - bottom), (kw - left, kw - right))
    if strides == (1, 1) and min(*margins[0], *margins[1]) >= 0:
        return _with_eigen(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), margins)
    (to_x,) = jax.linear_transpose(lambda x: _plain(x, kernel, strides, padding), x)(cotangent)
    return to_x


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, strides: Pair, padding: tuple[Pair, Pair]
) -> Float[Array, "kh kw C D"]:
    """Products of patches [pixels, kh kw C] with the cotangent [pixels, D], some rows of the output at a time."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (kh, kw, channels, _), (batch, height, width, _) = kernel.shape, cotangent.shape
    row_bytes = batch * width * kh * kw * channels * x.dtype.itemsize
    rows = max(n for n in range(1, height + 1) if height % n == 0 and (n == 1 or n * row_bytes <= PATCH_BYTES))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    flat = kernel.reshape(kh * kw * channels, -1)
    take = functools.partial(lax.dynamic_slice_in_dim, axis=1, allow_negative_indices=False)

    def product(i: jax.Array | int) -> Float[Array, "khkwC D"]:
        lines = take(padded, i * rows * strides[0], (rows - 1) * strides[0] + kh)
        patches = _patches(lines, (kh, kw), strides, (rows, width))
        out = take(cotangent, i * rows, rows).reshape(-1, flat.shape[1])
        # As a transpose, for which JAX knows how the result is sharded where the batch is.
        (to_kernel,) = jax.linear_transpose(lambda kernel: patches @ kernel, flat)(out)
        return to_kernel.astype(wide)

    if rows == height:  # A loop of one turn would have the devices of a sharded batch exchange in it.
        total = product(0)
    else:
        total = lax.fori_loop(0, height // rows, lambda i, total: total + product(i), jnp.zeros_like(flat, wide))
    return total.reshape(kernel.shape).astype(x.dtype)
