"""Normalization, ReLU and a 3x3 depthwise convolution: on NVIDIA GPUs one Pallas kernel.

It reads a map and writes one. Each pixel is read and normalized once for each of the three columns that need it.

Shape legend: B batch, H height, W width, C channels.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from xception_jax.ops import kernels
from xception_jax.ops.affine import Vector, wide
from xception_jax.ops.gpu import strips
from xception_jax.ops.gpu.strips import Blocks, Grid
from xception_jax.ops.reference import Maps, Settings, affine_relu


def depthwise_forward(
    x: Maps, scale: Vector, shift: Vector, kernel: Float[Array, "3 3 1 C"], settings: Settings
) -> Maps:
    """The depthwise convolution of `affine_relu(x, scale, shift)`, computed in float32 and rounded once.

    Args:
      x: float32 or bfloat16.
      scale, shift: float32.
      kernel: of x's dtype.
    """
    forms = (functools.partial(form, settings=settings) for form in (in_one_kernel, shifted_products))
    return strips.as_operator(*forms)(x, scale, shift, kernel)


def shifted_products(
    x: Maps, scale: Vector, shift: Vector, kernel: Float[Array, "3 3 1 C"], settings: Settings
) -> Maps:
    """`depthwise_forward` as nine shifted products that each compute what they multiply.

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
        tap = jnp.where(inside[part], affine_relu(padded[part], scale, shift, settings), 0)
        total += wide(tap) * wide(kernel[i, j].reshape(1, 1, 1, -1))
    return total.astype(x.dtype)


def in_one_kernel(
    x: Maps,
    scale: Vector,
    shift: Vector,
    kernel: Float[Array, "3 3 1 C"],
    settings: Settings,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Maps:
    """`depthwise_forward` by the kernel. `blocks`: how maps are cut; `interpret`: on any platform, slowly."""

    def local(maps: tuple, shared: tuple) -> tuple[jax.Array, tuple]:
        (x,), (scale, shift, kernel) = maps, shared
        grid = strips.cut(x.shape, settings.dilation, blocks)
        y = pl.pallas_call(
            functools.partial(_program, grid=grid, relu=settings.relu, interpret=interpret),
            grid=grid.programs,
            out_shape=jax.ShapeDtypeStruct(strips.flat(x).shape, x.dtype),
            compiler_params=strips.triton.CompilerParams(num_warps=grid.blocks.warps, num_stages=1),
            cost_estimate=strips.cost(maps=2, flops=20, x=x),
            interpret=interpret,
            name="depthwise_forward",
        )(strips.flat(x), scale, shift, kernel.reshape(9, -1))
        return y.reshape(x.shape), ()

    return kernels.per_device(local, (x,), (scale, shift, kernel))[0]


def _program(
    x_ref: Any,
    scale_ref: Any,
    shift_ref: Any,
    kernel_ref: Any,
    y_ref: Any,
    *,
    grid: Grid,
    relu: bool,
    interpret: bool,
) -> None:
    """One strip. A row of x belongs to three rows of the result, whose sums are carried on."""
    strip, fma = grid.strip(), functools.partial(strips.multiply_add, interpret=interpret)
    scale, shift = strip.vector(scale_ref), strip.vector(shift_ref)
    rows = strip.kernel(kernel_ref)[::-1]

    nothing = jnp.zeros((grid.blocks.columns, grid.blocks.channels), jnp.float32)

    def row(i: Any) -> tuple[jax.Array, ...]:
        return tuple(strip.load(x_ref, i, strip.inside(i, shift), shift) for shift in (-1, 0, 1))

    def normalized(x: jax.Array, inside: jax.Array) -> jax.Array:
        """Float32; 0 outside the image."""
        y = fma(x.astype(jnp.float32), scale, shift)
        return jnp.where(inside, jnp.maximum(y, 0) if relu else y, 0)

    def step(i: jax.Array, carry: tuple) -> tuple:
        (taps, *coming), above, here = carry
        coming.append(row(i + grid.blocks.ahead))
        taps = [normalized(tap, strip.inside(i, j - 1)) for j, tap in enumerate(taps)]
        above, here, below = strips.add_products(taps, rows, (above, here, nothing), interpret)
        strip.store(y_ref, i - 1, above)
        return tuple(coming), here, below

    begin = strip.first - 1
    coming = tuple(row(begin + i) for i in range(grid.blocks.ahead))
    lax.fori_loop(begin, begin + grid.rows + 2, step, (coming, nothing, nothing))
