"""Depthwise convolution for the CPU: every channel has its own kernel, so that nothing but shifted products remains.

Shape legend: B batch, H height, W width, h, w those of the output, C channels, kh, kw those of the kernel.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from xception_jax.ops.affine import wide

Pair = tuple[int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise_conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw 1 C"],
    strides: Pair,
    padding: tuple[Pair, Pair],
    dilation: Pair,
) -> Float[Array, "B h w C"]:
    """`lax.conv_general_dilated` with `feature_group_count` C, as a sum of kh * kw shifted products.

    The sums are float32 (float64 for float64). Derivatives of every order by reverse mode, and forward mode over
    reverse; not `jax.jvp` of the convolution itself, for which `ops.as_reference()` is there.

    Args:
      x: any floating-point dtype.
      kernel: of the same dtype.
      padding: zeros added (top, bottom), (left, right); negative numbers cut.
      dilation: of the kernel.
    """
    return _shifted_products(x, kernel, strides, padding, dilation)


# Jitted, so that layers of equal shapes share one trace.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _shifted_products(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair
) -> jax.Array:
    """One fused sum. Its automatic gradient to `x` is as good: a fused sum of padded products."""
    padded = pad(x, padding)
    kh, kw = kernel.shape[:2]
    factors, taps = wide(kernel), []
    for i in range(kh):
        rows = along(padded, 1, i, kh, strides[0], dilation[0])
        for j in range(kw):
            patch = along(rows, 2, j, kw, strides[1], dilation[1])
            taps.append(wide(patch) * factors[i : i + 1, j : j + 1])
    return sum(taps[1:], start=taps[0]).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _kernel_gradient(
    x: jax.Array,
    cotangent: jax.Array,
    kernel_size: Pair,
    strides: Pair,
    padding: tuple[Pair, Pair],
    dilation: Pair,
) -> Float[Array, "kh kw 1 C"]:
    """The kernel's gradient, float32: one loop over the output's rows, so that each is read once for all taps.

    What it accumulates has the shape of a row, [B, w, C], and is summed over B and w after the loop: a sum within it
    would be slower, and a message between the devices in every turn where the batch is sharded. One sum for all taps,
    because each would be compiled by itself.
    """
    padded = pad(x, padding)
    kh, kw = kernel_size

    def add_row(y: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        out = wide(_line(cotangent, y))
        products = []
        for i in range(kh):
            line = _line(padded, y * strides[0] + i * dilation[0])
            products += [wide(along(line, 1, j, kw, strides[1], dilation[1])) * out for j in range(kw)]
        return [total + product for total, product in zip(sums, products, strict=True)]

    nothing = jnp.zeros_like(wide(cotangent[:, 0]))
    sums = lax.fori_loop(0, cotangent.shape[1], add_row, [nothing] * (kh * kw))
    return jnp.stack(sums).sum((1, 2)).reshape(kh, kw, 1, -1)


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: tuple[Pair, Pair], dilation: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted_products(x, kernel, strides, padding, dilation), (x, kernel)


def _backward(
    strides: Pair,
    padding: tuple[Pair, Pair],
    dilation: Pair,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kh, kw = kernel.shape[:2]
    _, to_input = jax.vjp(lambda x: _shifted_products(x, kernel, strides, padding, dilation), x)
    to_kernel = _kernel_gradient(x, cotangent, (kh, kw), strides, padding, dilation)
    return *to_input(cotangent), to_kernel.astype(kernel.dtype)


depthwise_conv.defvjp(_forward, _backward)


def pad(x: jax.Array, padding: tuple[Pair, Pair]) -> jax.Array:
    """Zeros around the pixels of [B, H, W, C]; negative numbers cut."""
    (top, bottom), (left, right) = padding
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))


def _line(x: jax.Array, y: jax.Array) -> jax.Array:
    """Row y, 0 or more; that it could be negative would have to be compiled into every kernel that reads it."""
    return lax.dynamic_index_in_dim(x, y, 1, keepdims=False, allow_negative_indices=False)


def along(x: jax.Array, axis: int, tap: int, taps: int, stride: int, dilation: int) -> jax.Array:
    """What tap number `tap` of a kernel with `taps` of them meets along the padded `axis`."""
    last = x.shape[axis] - (taps - 1) * dilation  # the first tap's limit
    return lax.slice_in_dim(x, tap * dilation, tap * dilation + last, stride, axis)
