"""The backward pass of normalization, ReLU and a 3x3 depthwise convolution: on NVIDIA GPUs one Pallas kernel.

As convolutions and sums it moves nine maps through main memory. All of its results are sums over what one pixel has,
its own input and the cotangents of its nine neighbours, so that one kernel moves three: it reads two and writes one.

Shape legend: B batch, H height, W width, C channels, N parts of an image.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from xception_jax.ops import kernels
from xception_jax.ops.affine import Vector, row, wide
from xception_jax.ops.gpu import strips
from xception_jax.ops.gpu.strips import Blocks, Grid
from xception_jax.ops.reference import Maps, Settings, affine_relu, depthwise_conv

Kernel = Float[Array, "3 3 1 C"]

SUMS = 9 + 2  # what a program adds up: the kernel's gradient, and those of scale and shift


class Gradients(NamedTuple):
    """Those of the maps, of x's dtype, of the affine function's vectors, float32, and of the kernel, of its dtype."""

    x: Maps
    scale: Vector
    shift: Vector
    kernel: Kernel


def depthwise_backward(
    x: Maps, scale: Vector, shift: Vector, kernel: Kernel, cotangent: Maps, settings: Settings
) -> Gradients:
    """The gradients of `depthwise_conv(affine_relu(x, scale, shift), kernel)`.

    Where a batch is sharded each device has its own images' part of the kernel, and sums alone are sent. Derivatives
    of every order, and `vmap`, are those of the plain form.

    Args:
      x: float32 or bfloat16.
      scale, shift: float32.
      kernel, cotangent: of x's dtype.
    """
    forms = (functools.partial(form, settings=settings) for form in (in_one_kernel, plain_backward))
    return strips.as_operator(*forms)(x, scale, shift, kernel, cotangent)


def plain_backward(
    x: Maps, scale: Vector, shift: Vector, kernel: Kernel, cotangent: Maps, settings: Settings
) -> Gradients:
    """`depthwise_backward` as convolutions and sums."""
    normalized = affine_relu(x, scale, shift, settings)
    depthwise = functools.partial(depthwise_conv, settings=settings)
    to_normalized, to_kernel = jax.vjp(depthwise, normalized, kernel)[1](cotangent)
    passed = jnp.where(normalized > 0, wide(to_normalized), 0) if settings.relu else wide(to_normalized)
    to_scale, to_shift = (passed * wide(x)).sum((0, 1, 2)), passed.sum((0, 1, 2))
    return Gradients((passed * row(scale, x)).astype(x.dtype), to_scale, to_shift, to_kernel)


def in_one_kernel(
    x: Maps,
    scale: Vector,
    shift: Vector,
    kernel: Kernel,
    cotangent: Maps,
    settings: Settings,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Gradients:
    """`depthwise_backward` by the kernel. `blocks`: how maps are cut; `interpret`: on any platform, slowly."""

    def local(maps: tuple, shared: tuple) -> tuple[jax.Array, jax.Array]:
        (x, cotangent), (scale, shift, kernel) = maps, shared
        to_x, sums = _call(x, scale, shift, kernel, cotangent, settings, blocks, interpret)
        return to_x, sums.sum((0, 1))

    to_x, (*to_kernel, to_scale, to_shift) = kernels.per_device(local, (x, cotangent), (scale, shift, kernel))
    return Gradients(to_x, to_scale, to_shift, jnp.stack(to_kernel).reshape(kernel.shape).astype(kernel.dtype))


def _call(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    settings: Settings,
    blocks: Blocks | None,
    interpret: bool,
) -> tuple[Maps, Float[Array, "B N 11 C"]]:
    """The gradient of x; of each strip the sums that the kernel's, the scales' and the shifts' are of."""
    grid = strips.cut(x.shape, settings.dilation, blocks)
    _, per_image, batch = grid.programs
    to_x, sums = pl.pallas_call(
        functools.partial(_program, grid=grid, relu=settings.relu, interpret=interpret),
        grid=grid.programs,
        out_shape=(
            jax.ShapeDtypeStruct(strips.flat(x).shape, x.dtype),
            jax.ShapeDtypeStruct((batch, per_image, SUMS, x.shape[3]), jnp.float32),
        ),
        compiler_params=strips.triton.CompilerParams(num_warps=grid.blocks.warps, num_stages=1),
        cost_estimate=strips.cost(maps=3, flops=40, x=x),
        interpret=interpret,
        name="depthwise_backward",
    )(strips.flat(x), strips.flat(cotangent), scale, shift, kernel.reshape(9, -1))
    return to_x.reshape(x.shape), sums


class Row(NamedTuple):
    """A row of x, and the same normalized: float32, 0 where it is not the strip's own."""

    given: jax.Array
    normalized: jax.Array


def _program(
    x_ref: Any,
    cotangent_ref: Any,
    scale_ref: Any,
    shift_ref: Any,
    kernel_ref: Any,
    to_x_ref: Any,
    sums_ref: Any,
    *,
    grid: Grid,
    relu: bool,
    interpret: bool,
) -> None:
    """One strip. A row of cotangents belongs to three rows of x, which are carried on. All sums are float32."""
    strip, fma = grid.strip(), functools.partial(strips.multiply_add, interpret=interpret)
    scale, shift = strip.vector(scale_ref), strip.vector(shift_ref)
    factors = strip.kernel(kernel_ref)

    nothing = jnp.zeros((grid.blocks.columns, grid.blocks.channels), jnp.float32)

    def loaded(i: Any) -> tuple[jax.Array, ...]:
        """Row i of cotangents, three times: what meets a pixel by the left, the middle and the right tap; and of x."""
        met = (strip.load(cotangent_ref, i, strip.inside(i, -j), -j) for j in (-1, 0, 1))
        return *met, strip.load(x_ref, i + 1, strip.own(i + 1))

    def normalized(x: jax.Array, own: jax.Array) -> Row:
        given = x.astype(jnp.float32)
        y = fma(given, scale, shift)
        return Row(given, jnp.where(own, jnp.maximum(y, 0) if relu else y, 0))

    def step(i: jax.Array, carry: tuple) -> tuple:
        ((*met, given), *coming), rows, (above, here), sums = carry
        coming.append(loaded(i + grid.blocks.ahead))
        rows = [*rows, normalized(given, strip.own(i + 1))]
        met = [m.astype(jnp.float32) for m in met]
        # By the kernel's first row, a row of cotangents meets the row above it.
        above, here, below = strips.add_products(met, factors, (above, here, nothing), interpret)
        passed = jnp.where(rows[0].normalized > 0, above, 0) if relu else jnp.where(strip.own(i - 1), above, 0)
        strip.store(to_x_ref, i - 1, passed * scale)
        products = [(m, row.normalized) for row in rows for m in met]
        *to_kernel, to_scale, to_shift = sums
        to_kernel = [fma(*product, total) for product, total in zip(products, to_kernel, strict=True)]
        sums = (*to_kernel, fma(passed, rows[0].given, to_scale), to_shift + passed)
        return tuple(coming), tuple(rows[1:]), (here, below), sums

    begin = strip.first - 1
    before = (Row(nothing, nothing), normalized(loaded(begin - 1)[-1], strip.own(begin)))
    coming = tuple(loaded(begin + i) for i in range(grid.blocks.ahead))
    carry = coming, before, (nothing, nothing), (nothing,) * SUMS
    *_, sums = lax.fori_loop(begin, begin + grid.rows + 2, step, carry)
    for number, total in enumerate(sums):
        strip.store_sum(sums_ref, number, total.sum(0))
