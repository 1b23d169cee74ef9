"""The backward pass of normalization, ReLU and a 3x3 depthwise convolution: on NVIDIA GPUs one Pallas kernel.

As convolutions and sums it moves nine maps through main memory. All of its results are sums over what one pixel has,
its own input and the cotangents of its nine neighbours, so that one kernel moves three: it reads two and writes one.

Shape legend: B batch, H height, W width, C channels, N parts of an image.
"""

import functools
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from xception_jax.ops import kernels
from xception_jax.ops.affine import Vector, row, wide
from xception_jax.ops.reference import Maps, Settings, affine_relu, depthwise_conv

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.12 says that a later version will not have it
    triton = None  # type: ignore[assignment]

Kernel = Float[Array, "3 3 1 C"]

TAPS = tuple(itertools.product((-1, 0, 1), (-1, 0, 1)))
# What one program of the kernel holds in registers: so many pixels of so many channels; and how many pixels it does.
PIXELS, CHANNELS, PIXELS_A_PART = 16, 64, 1024
SUMS = len(TAPS) + 2


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
    plain = functools.partial(plain_backward, settings=settings)
    kernel_form = functools.partial(in_one_kernel, settings=settings)

    def value(*args: jax.Array) -> Gradients:
        return lax.platform_dependent(*args, cuda=kernel_form if _has_kernel(x) else plain, default=plain)

    return kernels.as_operator(value, plain)(x, scale, shift, kernel, cotangent)


def _has_kernel(x: jax.Array) -> bool:
    """NVIDIA's GPUs before compute capability 8.0 have none. A GPU that is planned for, and is not there, has."""
    if triton is None or kernels.images_per_device(x.shape[0]) == 0:
        return False
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return not re.match(r"[1-7]\.", capability)


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
    interpret: bool = False,
) -> Gradients:
    """`depthwise_backward` by the kernel. `interpret`: on any platform, slowly."""

    def local(maps: tuple, shared: tuple) -> tuple[jax.Array, jax.Array]:
        (x, cotangent), (scale, shift, kernel) = maps, shared
        to_x, sums = _call(x, scale, shift, kernel, cotangent, settings, interpret)
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
    interpret: bool,
) -> tuple[Maps, Float[Array, "B N 11 C"]]:
    """The gradient of x; of each part of an image the sums that the kernel's, the scales' and the shifts' are of."""
    batch, height, width, channels = x.shape
    pixels = height * width
    parts = pl.cdiv(pixels, PIXELS_A_PART)
    body = functools.partial(_program, height=height, width=width, settings=settings)
    to_x, sums = pl.pallas_call(
        body,
        grid=(pl.cdiv(channels, CHANNELS), parts, batch),
        out_shape=(
            jax.ShapeDtypeStruct((batch, pixels, channels), x.dtype),
            jax.ShapeDtypeStruct((batch, parts, SUMS, channels), jnp.float32),
        ),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        cost_estimate=pl.CostEstimate(
            flops=4 * len(TAPS) * x.size, transcendentals=0, bytes_accessed=3 * x.size * x.dtype.itemsize
        ),
        interpret=interpret,
        name="depthwise_backward",
    )(*(m.reshape(batch, pixels, channels) for m in (x, cotangent)), scale, shift, kernel.reshape(len(TAPS), channels))
    return to_x.reshape(x.shape), sums


def _program(
    x_ref: Any,
    cotangent_ref: Any,
    scale_ref: Any,
    shift_ref: Any,
    kernel_ref: Any,
    to_x_ref: Any,
    sums_ref: Any,
    *,
    height: int,
    width: int,
    settings: Settings,
) -> None:
    """One block of channels of one part of one image, `PIXELS` pixels at a time. All sums are float32."""
    part, image = pl.program_id(1), pl.program_id(2)
    channel = pl.program_id(0) * CHANNELS + jnp.arange(CHANNELS)
    has_channel = channel < x_ref.shape[2]
    vector = functools.partial(triton.load, mask=has_channel, other=0)
    scale, shift = vector(scale_ref.at[channel])[None], vector(shift_ref.at[channel])[None]
    factors = [vector(kernel_ref.at[t, channel]).astype(jnp.float32)[None] for t in range(len(TAPS))]

    def step(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        pixel = part * PIXELS_A_PART + i * PIXELS + jnp.arange(PIXELS)
        y, x = lax.div(pixel, width), lax.rem(pixel, width)
        inside = (pixel < height * width)[:, None] & has_channel[None]
        here = image, pixel[:, None], channel[None]
        given = triton.load(x_ref.at[here], mask=inside, other=0).astype(jnp.float32)
        normalized = (given * scale + shift).astype(x_ref.dtype).astype(jnp.float32)  # as the forward pass rounds it
        output = jnp.maximum(normalized, 0) if settings.relu else normalized
        passed, products = jnp.zeros((PIXELS, CHANNELS), jnp.float32), []
        for (dy, dx), factor in zip(TAPS, factors, strict=True):
            # The result that meets this pixel by this tap.
            up, left = y - dy * settings.dilation, x - dx * settings.dilation
            met = (up >= 0) & (up < height) & (left >= 0) & (left < width)
            there = image, (up * width + left)[:, None], channel[None]
            tap = triton.load(cotangent_ref.at[there], mask=met[:, None] & inside, other=0).astype(jnp.float32)
            passed += tap * factor
            products.append(tap * output)
        if settings.relu:
            passed = jnp.where(normalized > 0, passed, 0)
        triton.store(to_x_ref.at[here], (passed * scale).astype(to_x_ref.dtype), mask=inside)
        return tuple(s + p for s, p in zip(sums, [*products, passed * given, passed], strict=True))

    steps = min(PIXELS_A_PART, pl.cdiv(height * width, PIXELS) * PIXELS) // PIXELS
    nothing = jnp.zeros((PIXELS, CHANNELS), jnp.float32)
    for number, total in enumerate(lax.fori_loop(0, steps, step, (nothing,) * SUMS)):
        triton.store(sums_ref.at[image, part, number, channel], total.sum(0), mask=has_channel)
