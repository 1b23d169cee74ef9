"""The backward pass of normalization, ReLU and a 3x3 depthwise convolution: on NVIDIA GPUs one Pallas kernel.

As convolutions and sums it moves nine maps through main memory. All of its results are sums over what one pixel has,
its own input and the cotangents of its nine neighbours, so that one kernel moves three: it reads two and writes one.

Shape legend: B batch, H height, W width, C channels, N parts of a picture.
"""

import functools
import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from xception_jax.ops.affine import Vector, affine, row, wide
from xception_jax.ops.dense import NHWC

Maps = Float[Array, "B H W C"]
Kernel = Float[Array, "3 3 1 C"]

TAPS = tuple(itertools.product((-1, 0, 1), (-1, 0, 1)))
# What one program of the kernel holds in registers: so many pixels of so many channels; and how many pixels it does.
PIXELS, CHANNELS, PIXELS_A_PART = 16, 64, 1024
SUMS = len(TAPS) + 2


class Settings(NamedTuple):
    """What is static: whether there is a ReLU, and the dilation of the depthwise convolution."""

    relu: bool
    dilation: int


class Gradients(NamedTuple):
    """Those of the maps, of x's dtype, of the affine function's vectors, float32, and of the kernel, of its dtype."""

    x: Maps
    scale: Vector
    shift: Vector
    kernel: Kernel


def affine_relu(x: Maps, scale: Vector, shift: Vector, settings: Settings) -> Maps:
    """x * scale + shift, or its ReLU."""
    x = affine(x, scale, shift)
    return jax.nn.relu(x) if settings.relu else x


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def depthwise_backward(
    x: Maps, scale: Vector, shift: Vector, kernel: Kernel, cotangent: Maps, settings: Settings
) -> Gradients:
    """The gradients of `depthwise(affine_relu(x, scale, shift), kernel)`, symmetrically padded, stride 1.

    Where a batch is sharded each device has its own pictures' part of the kernel, and sums alone are sent. Derivatives
    of every order, and `vmap`, are those of the plain form.

    Args:
      x: float32 or bfloat16.
      scale, shift: float32.
      kernel, cotangent: of x's dtype.
    """
    plain = functools.partial(plain_backward, settings=settings)
    on_nvidia = functools.partial(in_one_kernel, settings=settings) if _has_pallas() else plain
    return lax.platform_dependent(x, scale, shift, kernel, cotangent, cuda=on_nvidia, default=plain)


@depthwise_backward.defjvp
def _derivative(settings: Settings, primals: tuple, tangents: tuple) -> tuple[Gradients, Gradients]:
    plain = functools.partial(plain_backward, settings=settings)
    return depthwise_backward(*primals, settings), jax.jvp(plain, primals, tangents)[1]


def _has_pallas() -> bool:
    """NVIDIA's GPUs before compute capability 8.0 do not. A GPU that is planned for, and is not there, does."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return not re.match(r"[1-7]\.", capability)


def plain_backward(
    x: Maps, scale: Vector, shift: Vector, kernel: Kernel, cotangent: Maps, settings: Settings
) -> Gradients:
    """`depthwise_backward` as convolutions and sums."""
    normalized = affine_relu(x, scale, shift, settings)
    depthwise = functools.partial(_depthwise, dilation=settings.dilation)
    to_normalized, to_kernel = jax.vjp(depthwise, normalized, kernel)[1](cotangent)
    passed = jnp.where(normalized > 0, wide(to_normalized), 0) if settings.relu else wide(to_normalized)
    to_scale, to_shift = (passed * wide(x)).sum((0, 1, 2)), passed.sum((0, 1, 2))
    return Gradients((passed * row(scale, x)).astype(x.dtype), to_scale, to_shift, to_kernel)


def _depthwise(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), [(dilation, dilation)] * 2, rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC, feature_group_count=x.shape[-1],
    )  # fmt: skip


def in_one_kernel(*args: jax.Array, settings: Settings, interpret: bool = False) -> Gradients:
    """`depthwise_backward` of its `args`, by the kernel. `interpret`: on any platform, slowly."""

    @custom_vmap
    def gradients(*args: jax.Array) -> Gradients:
        to_x, sums = _partitioned(*args, settings, interpret)
        *to_kernel, to_scale, to_shift = sums.sum((0, 1))
        return Gradients(to_x, to_scale, to_shift, jnp.stack(to_kernel).reshape(3, 3, 1, -1).astype(to_x.dtype))

    @gradients.def_vmap
    def _(size: int, batched: Any, *args: jax.Array) -> tuple[Gradients, Gradients]:
        plain = functools.partial(plain_backward, settings=settings)
        axes = [0 if b else None for b in batched]
        return jax.vmap(plain, axes, axis_size=size)(*args), Gradients(True, True, True, True)  # type: ignore[arg-type]

    return gradients(*args)


def _call(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    settings: Settings,
    interpret: bool,
) -> tuple[Maps, Float[Array, "B N 11 C"]]:
    """The gradient of x; of each part of a picture the sums that the kernel's, the scales' and the shifts' are of."""
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
    """One block of channels of one part of one picture, `PIXELS` pixels at a time. All sums are float32."""
    part, picture = pl.program_id(1), pl.program_id(2)
    channel = pl.program_id(0) * CHANNELS + jnp.arange(CHANNELS)
    has_channel = channel < x_ref.shape[2]
    vector = functools.partial(triton.load, mask=has_channel, other=0)
    scale, shift = vector(scale_ref.at[channel])[None], vector(shift_ref.at[channel])[None]
    factors = [vector(kernel_ref.at[t, channel]).astype(jnp.float32)[None] for t in range(len(TAPS))]

    def step(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        pixel = part * PIXELS_A_PART + i * PIXELS + jnp.arange(PIXELS)
        y, x = lax.div(pixel, width), lax.rem(pixel, width)
        inside = (pixel < height * width)[:, None] & has_channel[None]
        here = picture, pixel[:, None], channel[None]
        given = triton.load(x_ref.at[here], mask=inside, other=0).astype(jnp.float32)
        normalized = (given * scale + shift).astype(x_ref.dtype).astype(jnp.float32)  # as the forward pass rounds it
        output = jnp.maximum(normalized, 0) if settings.relu else normalized
        passed, products = jnp.zeros((PIXELS, CHANNELS), jnp.float32), []
        for (dy, dx), factor in zip(TAPS, factors, strict=True):
            # The result that meets this pixel by this tap.
            up, left = y - dy * settings.dilation, x - dx * settings.dilation
            met = (up >= 0) & (up < height) & (left >= 0) & (left < width)
            there = picture, (up * width + left)[:, None], channel[None]
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
        triton.store(sums_ref.at[picture, part, number, channel], total.sum(0), mask=has_channel)


# Pictures and channels are independent; to the compiler a kernel is a box that it would give all pictures to.
_partitioned = custom_partitioning(_call, static_argnums=(5, 6))


def _partition(settings: Settings, interpret: bool, mesh: Mesh, args: Any, results: Any) -> tuple:
    def of(shapes: Any) -> tuple[NamedSharding, ...]:
        return tuple(s.sharding for s in shapes)

    return mesh, functools.partial(_call, settings=settings, interpret=interpret), of(results), of(args)


_partitioned.def_partition(
    partition=_partition,
    sharding_rule="b h w c, c, c, i j k c, b h w c -> b h w c, b n s c",
    need_replication_factors=("h", "w", "i", "j", "k", "n", "s"),
)
