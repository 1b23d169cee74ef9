"""Normalization, ReLU, separable convolution and the sums of its result: on TPUs one Pallas kernel a direction.

Forward a map is read and one is written; backward three are read (the input, the result, its cotangent) and one is
written. What is normalized, and what is between the two convolutions, is in on-chip memory only: the backward pass
computes it again.

Maps are [H, W, B, C] here (see `mosaic`). A program of the grid reads one row of some images and writes the row
above, whose last neighbours have come; rings in on-chip memory keep three rows, with a border of zeros.

Shape legend: B batch, P images of a program, H height, W width, C channels in, D channels out.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xception_jax.ops import kernels, reference
from xception_jax.ops.reference import Parameters, Settings
from xception_jax.ops.tpu import mosaic
from xception_jax.ops.tpu.mosaic import F32, TAPS

SUMS = len(TAPS) + 2  # the depthwise kernel's gradient, the scale's, the shift's


def takes(x: jax.Array, pointwise: jax.Array, settings: Settings) -> bool:
    """Whether the kernels can do such maps, on the devices that are traced for."""
    if not mosaic.has_kernels() or settings.dilation != 1 or x.dtype != jnp.bfloat16:
        return False
    # XLA lays out maps of fewer channels in another way.
    wide = min(pointwise.shape[2:]) >= mosaic.LANES
    return wide and _images(kernels.images_per_device(x.shape[0]), x.shape[2], *pointwise.shape[2:]) > 0


def _images(batch: int, width: int, channels: int, out: int) -> int:
    """How many images a program takes; 0 where no number fits."""
    channels, out = (pl.cdiv(c, mosaic.LANES) * mosaic.LANES for c in (channels, out))
    # Bytes that the backward pass needs for each channel of a row's pixels (of the input six float32 and seven
    # bfloat16, of the result six bfloat16, and what is on the way), and for each weight.
    pixel, weight = 44 * channels + 16 * out, 20
    return mosaic.images_per_program(batch, (width + 2) * pixel, weight * channels * out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, weights: Parameters, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """`reference.convolve` of what the kernels take. Keeps x and the result for the backward pass alone."""
    return _forward(x, weights, settings)[0]


def _forward(x: jax.Array, weights: Parameters, settings: Settings) -> tuple:
    plain = functools.partial(reference.convolve, settings=settings)
    y, sums = kernels.as_operator(functools.partial(forward_kernel, settings=settings), plain)(x, weights)
    return (y, sums), (x, weights, y)


def _backward(settings: Settings, residuals: tuple, cotangents: tuple) -> tuple[jax.Array, Parameters]:
    plain = functools.partial(plain_backward, settings=settings)
    return kernels.as_operator(functools.partial(backward_kernel, settings=settings), plain)(*residuals, *cotangents)


convolve.defvjp(_forward, _backward)


def plain_backward(
    x: jax.Array, weights: Parameters, y: jax.Array, to_y: jax.Array, to_sums: jax.Array, settings: Settings
) -> tuple[jax.Array, Parameters]:
    """The gradients of x and the weights, by `lax`. y is not needed."""
    convolve = functools.partial(reference.convolve, settings=settings)
    return jax.vjp(convolve, x, weights)[1]((to_y, to_sums))


def forward_kernel(
    x: Float[Array, "B H W C"], weights: Parameters, settings: Settings, interpret: Any = False
) -> tuple[Float[Array, "B H W D"], Float[Array, "2 D"]]:
    """`convolve` in one kernel. `interpret`: see `mosaic.call`."""

    def kernel(maps: tuple, shared: tuple) -> tuple[jax.Array, jax.Array]:
        (x,), (weights,) = map(mosaic.rows_first, maps), shared
        channels, out = weights.pointwise.shape[2:]
        blocks = Blocks.of(x, weights)
        y, sums = mosaic.call(
            functools.partial(_forward_program, relu=settings.relu),
            blocks.grid,
            [(x, blocks.row(channels)), *_operands(weights)],
            [blocks.map_like(x, out), blocks.sums(2, out)],
            [blocks.ring(x), blocks.line(x)],
            parallel=1,
            flops=2 * x.size * (len(TAPS) + out),
            name="separable_conv",
            interpret=interpret,
        )
        return mosaic.batch_first(y), sums.sum(1)

    return kernels.per_device(kernel, (x,), (weights,))


def backward_kernel(
    x: Float[Array, "B H W C"],
    weights: Parameters,
    y: Float[Array, "B H W D"],
    to_y: Float[Array, "B H W D"],
    to_sums: Float[Array, "2 D"],
    settings: Settings,
    interpret: Any = False,
) -> tuple[Float[Array, "B H W C"], Parameters]:
    """`plain_backward` in one kernel."""

    def kernel(maps: tuple, shared: tuple) -> tuple[jax.Array, tuple]:
        (x, y, to_y), (weights, to_sums) = map(mosaic.rows_first, maps), shared
        channels, out = weights.pointwise.shape[2:]
        blocks = Blocks.of(x, weights)
        to_x, sums, to_pointwise = mosaic.call(
            functools.partial(_backward_program, relu=settings.relu),
            blocks.grid,
            [
                (x, blocks.row(channels)),
                *_operands(weights),
                _operand(to_sums),
                *((m, blocks.row(out)) for m in (y, to_y)),
            ],
            [blocks.map_like(x, channels), blocks.sums(SUMS, channels), blocks.products(channels, out)],
            [blocks.ring(x), blocks.ring(x), blocks.line(x), blocks.line(x, 2), blocks.line(y, 2)],
            parallel=1,
            flops=2 * x.size * (3 * len(TAPS) + 2 * out),
            name="separable_conv_backward",
            interpret=interpret,
        )
        return mosaic.batch_first(to_x), (sums.sum(1), to_pointwise.sum(0))

    to_x, (sums, to_pointwise) = kernels.per_device(kernel, (x, y, to_y), (weights, to_sums))
    *to_depthwise, to_scale, to_shift = sums
    gradients = Parameters(to_scale, to_shift, jnp.stack(to_depthwise), to_pointwise)
    return to_x, Parameters(*(g.reshape(w.shape).astype(w.dtype) for g, w in zip(gradients, weights, strict=True)))


def _operand(x: jax.Array) -> mosaic.Operand:
    """What all programs take whole."""
    return x, pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)


def _operands(weights: Parameters) -> list[mosaic.Operand]:
    channels, out = weights.pointwise.shape[2:]
    depthwise = weights.depthwise.reshape(len(TAPS), channels).astype(F32)
    vectors = weights.scale[None], weights.shift[None]
    return [_operand(w) for w in (*vectors, depthwise, weights.pointwise.reshape(channels, out))]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What programs take of [H, W, B, C] maps.

    The grid is groups of images, blocks of images in a group, rows and one more. Chips of two cores (v5p) give each
    a group, where the blocks are even in number.
    """

    height: int
    width: int
    batch: int
    images: int

    @classmethod
    def of(cls, x: jax.Array, weights: Parameters) -> "Blocks":
        height, width, batch, _ = x.shape
        return cls(height, width, batch, _images(batch, width, *weights.pointwise.shape[2:]))

    @property
    def grid(self) -> tuple[int, int, int]:
        blocks = self.batch // self.images
        groups = 1 if blocks % 2 else 2
        return groups, blocks // groups, self.height + 1

    def row(self, channels: int, *, behind: int = 0) -> pl.BlockSpec:
        """The row that a program reads, or one before it."""

        def index(group: jax.Array, block: jax.Array, row: jax.Array) -> tuple:
            return jnp.clip(row - behind, 0, self.height - 1), 0, group * self.grid[1] + block, 0

        return pl.BlockSpec((1, self.width, self.images, channels), index)

    def map_like(self, x: jax.Array, channels: int) -> mosaic.Result:
        """A map that is written one row behind what is read."""
        return jax.ShapeDtypeStruct((*x.shape[:3], channels), x.dtype), self.row(channels, behind=1)

    def sums(self, count: int, channels: int) -> mosaic.Result:
        """Sums over each image's pixels."""
        block = pl.BlockSpec((count, self.images, channels), lambda g, b, _: (0, g * self.grid[1] + b, 0))
        return jax.ShapeDtypeStruct((count, self.batch, channels), F32), block

    def products(self, channels: int, out: int) -> mosaic.Result:
        """Sums over the pixels of each group of images."""
        block = pl.BlockSpec((1, channels, out), lambda group, *_: (group, 0, 0))
        return jax.ShapeDtypeStruct((self.grid[0], channels, out), F32), block

    def ring(self, x: jax.Array) -> Any:
        """Three rows, with a border on the left and on the right; float32, as nine taps are read of each pixel."""
        return pltpu.VMEM((3, self.width + 2, self.images, x.shape[-1]), F32)

    def line(self, x: jax.Array, count: int = 1) -> Any:
        """A row, or several."""
        return pltpu.VMEM((count, self.width, self.images, x.shape[-1]), x.dtype)


def _forward_program(
    x: Any,
    scale: Any,
    shift: Any,
    depthwise: Any,
    pointwise: Any,
    y: Any,
    sums: Any,
    normalized: Any,
    middle: Any,
    *,
    relu: bool,
) -> None:
    """All arguments are references to on-chip memory: operands, results, and what programs leave to the next ones."""
    row, last = _row_and_last()
    _normalize(row, last, x, scale, shift, normalized, relu)

    @pl.when(row == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)

    @pl.when(row > 0)
    def _() -> None:
        _depthwise(row, normalized, depthwise, middle)
        product = jnp.dot(_flat(middle[0]), pointwise[...], preferred_element_type=F32)
        result = product.astype(y.dtype).reshape(y.shape[1:])
        y[0] = result
        result = result.astype(F32)
        sums[0] += result.sum(0)
        sums[1] += jnp.square(result).sum(0)


def _backward_program(
    x: Any,
    scale: Any,
    shift: Any,
    depthwise: Any,
    pointwise: Any,
    to_sums: Any,
    y: Any,
    to_y: Any,
    to_x: Any,
    sums: Any,
    to_pointwise: Any,
    normalized: Any,
    to_middle: Any,
    middle: Any,
    inputs: Any,
    to_outputs: Any,
    *,
    relu: bool,
) -> None:
    """See `_forward_program`. `inputs` and `to_outputs` keep two rows."""
    row, last = _row_and_last()
    first_block = pl.program_id(1) == 0
    this, before = lax.rem(row, 2), lax.rem(row + 1, 2)
    _normalize(row, last, x, scale, shift, normalized, relu)

    @pl.when((row == 0) & first_block)
    def _() -> None:
        to_pointwise[...] = jnp.zeros_like(to_pointwise)

    @pl.when(row == 0)
    def _() -> None:
        sums[...] = jnp.zeros_like(sums)
        to_middle[...] = jnp.zeros_like(to_middle)

    @pl.when(row < last)
    def _() -> None:
        inputs[this] = x[0]
        _add_statistics(to_y, y, to_sums, to_outputs.at[this])
        transposed = (((1,), (1,)), ((), ()))
        product = lax.dot_general(_flat(to_outputs[this]), pointwise[...], transposed, preferred_element_type=F32)
        to_middle[lax.rem(row, 3), 1:-1] = product.astype(x.dtype).astype(F32).reshape(x.shape[1:])

    @pl.when(row == last)
    def _() -> None:
        to_middle[lax.rem(row, 3)] = jnp.zeros(to_middle.shape[1:], to_middle.dtype)

    @pl.when(row > 0)
    def _() -> None:
        _depthwise(row, normalized, depthwise, middle)
        over_pixels = (((0,), (0,)), ((), ()))
        to_pointwise[0] += lax.dot_general(
            _flat(middle[0]), _flat(to_outputs[before]), over_pixels, preferred_element_type=F32
        )
        _depthwise_backward(row, normalized, inputs.at[before], scale, depthwise, to_middle, to_x, sums, relu)


def _row_and_last() -> tuple[jax.Array, Any]:
    """The row that a program reads, and the one of which there is none: after the last."""
    return pl.program_id(2), pl.num_programs(2) - 1


def _normalize(row: jax.Array, last: Any, x: Any, scale: Any, shift: Any, normalized: Any, relu: bool) -> None:
    """Takes a row into the ring; zeros before the first one and after the last."""
    slot = lax.rem(row, 3)

    def some(c: slice) -> None:
        a, b = scale[0:1, c], shift[0:1, c]

        def column(w: jax.Array, nothing: tuple) -> tuple:
            value = (x[0, w, :, c].astype(F32) * a + b).astype(x.dtype).astype(F32)
            normalized[slot, w + 1, :, c] = jnp.maximum(value, 0) if relu else value
            return nothing

        mosaic.columns(x.shape[1], column)

    @pl.when(row == 0)
    def _() -> None:
        normalized[...] = jnp.zeros_like(normalized)

    @pl.when(row < last)
    def _() -> None:
        for c in _lanes(x):
            some(c)

    @pl.when(row == last)
    def _() -> None:
        normalized[slot] = jnp.zeros(normalized.shape[1:], normalized.dtype)


def _depthwise(row: jax.Array, normalized: Any, kernel: Any, middle: Any) -> None:
    """The convolution of the ring, for the row before this one."""
    rows = _ring_rows(row)

    def some(c: slice) -> None:
        factors = [kernel[t : t + 1, c] for t in range(len(TAPS))]

        def column(w: jax.Array, nothing: tuple) -> tuple:
            taps = [normalized[rows[i], w + j, :, c] for i, j in TAPS]
            middle[0, w, :, c] = _sum_of_products(taps, factors).astype(middle.dtype)
            return nothing

        mosaic.columns(middle.shape[1], column)

    for c in _lanes(middle):
        some(c)


def _add_statistics(to_y: Any, y: Any, to_sums: Any, total: Any) -> None:
    """The cotangent of y, that which comes by its sums with it."""

    def some(c: slice) -> None:
        to_sum, to_square = to_sums[0:1, c], 2 * to_sums[1:2, c]

        def column(w: jax.Array, nothing: tuple) -> tuple:
            through_sums = to_sum + to_square * y[0, w, :, c].astype(F32)
            total[w, :, c] = (to_y[0, w, :, c].astype(F32) + through_sums).astype(total.dtype)
            return nothing

        mosaic.columns(y.shape[1], column)

    for c in _lanes(y):
        some(c)


def _depthwise_backward(
    row: jax.Array,
    normalized: Any,
    inputs: Any,
    scale: Any,
    kernel: Any,
    cotangents: Any,
    to_x: Any,
    sums: Any,
    relu: bool,
) -> None:
    """The gradients of `_depthwise` and `_normalize`, for the row before this one."""
    rows = _ring_rows(row)

    def some(c: slice) -> None:
        factors = [kernel[t : t + 1, c] for t in range(len(TAPS))]
        a = scale[0:1, c]

        def column(w: jax.Array, totals: tuple) -> tuple:
            here = normalized[rows[1], w + 1, :, c]
            # The results that meet this pixel by each tap.
            met = [cotangents[rows[2 - i], w + 2 - j, :, c] for i, j in TAPS]
            passed = _sum_of_products(met, factors)
            if relu:
                passed = jnp.where(here > 0, passed, 0)
            to_x[0, w, :, c] = (passed * a).astype(to_x.dtype)
            terms = *(m * here for m in met), passed * inputs[w, :, c].astype(F32), passed
            return tuple(total + term for total, term in zip(totals, terms, strict=True))

        nothing = jnp.zeros((to_x.shape[2], c.stop - c.start), F32)
        for k, total in enumerate(mosaic.columns(to_x.shape[1], column, (nothing,) * SUMS)):
            sums[k, :, c] += total

    for c in _lanes(to_x):
        some(c)


def _sum_of_products(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, (x * y for x, y in zip(a, b, strict=True)))


def _lanes(x: Any) -> list[slice]:
    """The channels, a register's at a time."""
    channels = x.shape[-1]
    return [slice(c, min(c + mosaic.LANES, channels)) for c in range(0, channels, mosaic.LANES)]


def _ring_rows(row: jax.Array) -> list[jax.Array]:
    """Where in a ring the row two before this is, the one before, and this."""
    return [lax.rem(row + k, 3) for k in (1, 2, 3)]


def _flat(x: jax.Array) -> Float[Array, "WP C"]:
    """A row's pixels of all images, which are rows of tiles."""
    return x.reshape(-1, x.shape[-1])
