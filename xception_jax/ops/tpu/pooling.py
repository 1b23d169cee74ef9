"""Max pooling by 3x3 windows and stride 2, on TPUs by one Pallas kernel a direction that keep nothing but the input.

XLA's gradient scatters into a map of the input's size, for which that has been normalized, written and kept. Here the
pool comes before the normalization, see `pooling.affine_max_pool`.

Maps are [H, W, B, C] here (see `mosaic`). A program of the grid reads two rows of some images and channels into a
ring of four, and does the windows whose rows have come.

Shape legend: B batch, P images of a program, H height, W width, h, w those of the result, C channels.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xception_jax.ops import kernels
from xception_jax.ops.affine import row
from xception_jax.ops.tpu import mosaic
from xception_jax.ops.tpu.mosaic import F32, TAPS

SIDE, STRIDE, RING = 3, 2, 4  # of windows; rows of the ring


@dataclasses.dataclass(frozen=True)
class Border:
    """Rows above and below, columns left and right, that are no pixels."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    def windows(self, height: int, width: int) -> tuple[int, int]:
        """How many there are, down and across."""
        return (height + sum(self.rows) - SIDE) // STRIDE + 1, (width + sum(self.columns) - SIDE) // STRIDE + 1


def takes(x: jax.Array, window: int, stride: int, border: Border, dilation: int) -> bool:
    """Whether the kernels can do such pools, on the devices that are traced for."""
    if not mosaic.has_kernels() or (window, stride, dilation) != (SIDE, STRIDE, 1):
        return False
    # XLA lays out maps of fewer channels in another way.
    wide = x.shape[3] >= mosaic.LANES
    fitting = {*border.rows, *border.columns} <= {0, 1} and min(border.windows(*x.shape[1:3])) > 0
    return wide and fitting and _images(kernels.images_per_device(x.shape[0]), x.shape[2]) > 0


def _images(batch: int, width: int) -> int:
    """How many images a program takes; 0 where no number fits."""
    # Of float32 two rings; of no more than that two rows each way and one of the result, all there twice.
    pixel = 4 * mosaic.LANES * (2 * RING + 2 * (STRIDE + STRIDE + 1))
    return mosaic.images_per_program(batch, (width + SIDE) * pixel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def signed_max_pool(x: jax.Array, sign: jax.Array, border: Border) -> jax.Array:
    """`plain` of what the kernels take. Keeps x alone for the backward pass."""
    return _forward(x, sign, border)[0]


def _forward(x: jax.Array, sign: jax.Array, border: Border) -> tuple:
    kernel, lax_form = (functools.partial(f, border=border) for f in (forward_kernel, plain))
    return kernels.as_operator(kernel, lax_form)(x, sign), (x, sign)


def _backward(border: Border, residuals: tuple, to_y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, sign = residuals
    kernel, lax_form = (functools.partial(f, border=border) for f in (backward_kernel, plain_backward))
    return kernels.as_operator(kernel, lax_form)(x, sign, to_y), jnp.zeros_like(sign)


signed_max_pool.defvjp(_forward, _backward)


def plain(x: Float[Array, "B H W C"], sign: Float[Array, " C"], border: Border) -> Float[Array, "B h w C"]:
    """The windows' maxima where `sign` is 1, minima where it is -1."""
    sign = row(sign, x).astype(x.dtype)
    pads = (border.rows, border.columns)
    return sign * nnx.max_pool(sign * x, (SIDE, SIDE), strides=(STRIDE, STRIDE), padding=pads)


def plain_backward(
    x: Float[Array, "B H W C"], sign: Float[Array, " C"], to_y: Float[Array, "B h w C"], border: Border
) -> Float[Array, "B H W C"]:
    """The gradient of x: a window's goes to its first maximum, row by row."""
    return jax.vjp(lambda x: plain(x, sign, border), x)[1](to_y)[0]


def forward_kernel(
    x: Float[Array, "B H W C"], sign: Float[Array, " C"], border: Border, interpret: Any = False
) -> Float[Array, "B h w C"]:
    """`plain` in one kernel. `interpret`: see `mosaic.call`."""

    def kernel(maps: tuple, shared: tuple) -> tuple[jax.Array, tuple]:
        (x,), (sign,) = map(mosaic.rows_first, maps), shared
        blocks = Blocks.of(x, border)
        [y] = mosaic.call(
            functools.partial(_forward_program, blocks=blocks),
            blocks.grid,
            [(x, blocks.rows()), (sign[None], blocks.vector())],
            [(blocks.result(x), blocks.window())],
            [blocks.ring()],
            parallel=2,
            flops=blocks.comparisons,
            name="max_pool",
            interpret=interpret,
        )
        return mosaic.batch_first(y), ()

    return kernels.per_device(kernel, (x,), (sign,))[0]


def backward_kernel(
    x: Float[Array, "B H W C"],
    sign: Float[Array, " C"],
    to_y: Float[Array, "B h w C"],
    border: Border,
    interpret: Any = False,
) -> Float[Array, "B H W C"]:
    """`plain_backward` in one kernel; a window in which a NaN is gives its gradient to no pixel."""

    def kernel(maps: tuple, shared: tuple) -> tuple[jax.Array, tuple]:
        (x, to_y), (sign,) = map(mosaic.rows_first, maps), shared
        blocks = Blocks.of(x, border)
        [to_x] = mosaic.call(
            functools.partial(_backward_program, blocks=blocks),
            blocks.grid,
            [(x, blocks.rows()), (sign[None], blocks.vector()), (to_y, blocks.window())],
            [(jax.ShapeDtypeStruct(x.shape, x.dtype), blocks.rows(behind=1))],
            [blocks.ring(), blocks.ring()],
            parallel=2,
            flops=3 * blocks.comparisons,
            name="max_pool_backward",
            interpret=interpret,
        )
        return mosaic.batch_first(to_x), ()

    return kernels.per_device(kernel, (x, to_y), (sign,))[0]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What programs take of the maps. The grid is blocks of images, of channels, pairs of rows and one more."""

    height: int
    width: int
    batch: int
    channels: int
    images: int
    border: Border

    @classmethod
    def of(cls, x: Float[Array, "H W B C"], border: Border) -> "Blocks":
        height, width, batch, channels = x.shape
        return cls(height, width, batch, channels, _images(batch, width), border)

    @property
    def windows(self) -> tuple[int, int]:
        """Down and across."""
        return self.border.windows(self.height, self.width)

    @property
    def comparisons(self) -> int:
        """Of all windows' pixels."""
        return len(TAPS) * math.prod(self.windows) * self.batch * self.channels

    @property
    def late(self) -> int:
        """How many programs after its first two rows a window's last row comes: none with a row of padding above."""
        return 1 - self.border.rows[0]

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.batch // self.images, pl.cdiv(self.channels, mosaic.LANES), pl.cdiv(self.height, STRIDE) + 1

    def rows(self, *, behind: int = 0) -> pl.BlockSpec:
        """The two rows that a program reads, or those before them."""
        last = self.grid[2] - 2
        return pl.BlockSpec(
            (STRIDE, self.width, self.images, mosaic.LANES), lambda b, c, i: (jnp.clip(i - behind, 0, last), 0, b, c)
        )

    def window(self) -> pl.BlockSpec:
        """The row of windows that a program does."""
        down, across = self.windows
        return pl.BlockSpec(
            (1, across, self.images, mosaic.LANES), lambda b, c, i: (jnp.clip(i - self.late, 0, down - 1), 0, b, c)
        )

    def vector(self) -> pl.BlockSpec:
        """Of [1, C], what belongs to a program's channels."""
        return pl.BlockSpec((1, mosaic.LANES), lambda b, c, i: (0, c))

    def result(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        """The smaller map."""
        return jax.ShapeDtypeStruct((*self.windows, self.batch, self.channels), x.dtype)

    def ring(self) -> Any:
        """Four rows with their padding."""
        across = max(self.width + self.border.columns[0], STRIDE * self.windows[1] + 1)
        return pltpu.VMEM((RING, across, self.images, mosaic.LANES), F32)


def _forward_program(x: Any, sign: Any, y: Any, ring: Any, *, blocks: Blocks) -> None:
    """All arguments are references to on-chip memory: operands, the result, and what is left to the next program."""
    step = pl.program_id(2)
    window = step - blocks.late
    _read(step, x, sign, ring, blocks)

    @pl.when((window >= 0) & (window < blocks.windows[0]))
    def _() -> None:
        rows = _ring_rows(window, blocks)

        def column(w: Any, nothing: tuple) -> tuple:
            y[0, w] = (functools.reduce(jnp.maximum, _taps(ring, rows, w)) * sign[...]).astype(y.dtype)
            return nothing

        mosaic.columns(blocks.windows[1], column)


def _backward_program(x: Any, sign: Any, to_y: Any, to_x: Any, ring: Any, totals: Any, *, blocks: Blocks) -> None:
    """See `_forward_program`. `totals` is a ring of gradients; a sign has gone into x and out of the maximum."""
    step = pl.program_id(2)
    window = step - blocks.late
    _read(step, x, sign, ring, blocks)

    @pl.when(step == 0)
    def _() -> None:
        totals[...] = jnp.zeros_like(totals)

    @pl.when((window >= 0) & (window < blocks.windows[0]))
    def _() -> None:
        rows = _ring_rows(window, blocks)

        def column(w: Any, nothing: tuple) -> tuple:
            taps = _taps(ring, rows, w)
            best, left = functools.reduce(jnp.maximum, taps), to_y[0, w].astype(F32)
            for (i, j), tap in zip(TAPS, taps, strict=True):
                given = jnp.where(tap == best, left, 0)
                totals[rows[i], STRIDE * w + j] += given
                left = jnp.where(tap == best, 0, left)  # the first of equal ones has it all
            return nothing

        mosaic.columns(blocks.windows[1], column)

    @pl.when(step > 0)
    def _() -> None:
        for k in range(STRIDE):
            slot = lax.rem(STRIDE * (step - 1) + k, RING)
            first = blocks.border.columns[0]
            to_x[k] = totals[slot, first : first + blocks.width].astype(to_x.dtype)
            totals[slot] = jnp.zeros(totals.shape[1:], F32)


def _read(step: jax.Array, x: Any, sign: Any, ring: Any, blocks: Blocks) -> None:
    """Takes two rows into the ring; around the map there is nothing that could be a maximum."""

    @pl.when(step == 0)
    def _() -> None:
        ring[...] = jnp.full(ring.shape, -jnp.inf, F32)

    for k in range(STRIDE):
        number = STRIDE * step + k
        slot = lax.rem(number, RING)

        @pl.when(number < blocks.height)
        def _(k: int = k, slot: jax.Array = slot) -> None:
            def column(w: Any, nothing: tuple) -> tuple:
                ring[slot, w + blocks.border.columns[0]] = x[k, w].astype(F32) * sign[...]
                return nothing

            mosaic.columns(blocks.width, column)

        @pl.when(number >= blocks.height)
        def _(slot: jax.Array = slot) -> None:
            ring[slot] = jnp.full(ring.shape[1:], -jnp.inf, F32)


def _ring_rows(window: jax.Array, blocks: Blocks) -> list[jax.Array]:
    """Where in a ring a window's three rows are. The first one of all may be above the map."""
    return [lax.rem(STRIDE * window - blocks.border.rows[0] + i + RING, RING) for i in range(SIDE)]


def _taps(ring: Any, rows: list[jax.Array], w: Any) -> list[jax.Array]:
    """A window's nine pixels."""
    return [ring[rows[i], STRIDE * w + j] for i, j in TAPS]
