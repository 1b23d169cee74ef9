"""How Pallas kernels for NVIDIA GPUs walk over maps: each program takes a strip of an image and goes down its rows.

A row is read once, and what the rows above and below need of it stays in registers.

Shape legend: B batch, H height, W width, C channels; c a program's channels, w its columns.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from xception_jax.ops import kernels

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.12 says that a later version will not have it
    triton = None  # type: ignore[assignment]


class Blocks(NamedTuple):
    """A program's strip: so many columns of so many channels, so many rows down; the warps that share it; and how many
    rows are on their way while one is computed."""

    columns: int
    channels: int
    rows: int
    warps: int
    ahead: int


# Measured on an H100 by experiments/gpu/blocks.py: the fastest, or within a few per cent, for every map of Xception.
COLUMNS, CHANNELS, WARPS, AHEAD = 4, 64, 4, 1
# A strip goes down the whole image, unless that makes fewer programs than keep a GPU busy.
ENOUGH_PROGRAMS, FEWEST_ROWS = 1024, 16


class Grid(NamedTuple):
    """All strips of a map: with dilation d, a strip's rows are d apart.

    Attributes:
      shape: [B, H, W, C].
      blocks: how it is cut.
      dilation: rows and columns between a pixel and its neighbours.
    """

    shape: tuple[int, ...]
    blocks: Blocks
    dilation: int

    @property
    def rows(self) -> int:
        """Rows of a strip, however few the map has."""
        return min(self.blocks.rows, -(-self.shape[1] // self.dilation))

    @property
    def across(self) -> int:
        """Strips beside each other."""
        return -(-self.shape[2] // self.blocks.columns)

    @property
    def down(self) -> int:
        """Strips below each other, for each of the `dilation` rows that one can begin with."""
        return -(-self.shape[1] // (self.dilation * self.rows))

    @property
    def programs(self) -> tuple[int, int, int]:
        """The grid of programs: channels, strips of an image, images."""
        batch, _, _, channels = self.shape
        return -(-channels // self.blocks.channels), self.across * self.down * self.dilation, batch

    def strip(self) -> "Strip":
        """The strip of the program that asks."""
        number = pl.program_id(1)
        start, part = lax.rem(lax.div(number, self.across), self.dilation), lax.div(number, self.across * self.dilation)
        return Strip(
            grid=self,
            image=pl.program_id(2),
            start=start,
            first=part * self.rows,
            column=lax.rem(number, self.across) * self.blocks.columns + jnp.arange(self.blocks.columns),
            channel=pl.program_id(0) * self.blocks.channels + jnp.arange(self.blocks.channels),
        )


def cut(shape: tuple[int, ...], dilation: int, blocks: Blocks | None = None) -> Grid:
    """The strips of a map [B, H, W, C]; by default cut for its size."""
    if blocks is None:
        blocks = Blocks(COLUMNS, CHANNELS, shape[1], WARPS, AHEAD)
        parts = -(-ENOUGH_PROGRAMS // math.prod(Grid(shape, blocks, dilation).programs))
        blocks = blocks._replace(rows=max(FEWEST_ROWS, -(-shape[1] // (dilation * parts))))
    return Grid(shape, blocks, dilation)


class Strip(NamedTuple):
    """A program's part of a map. Row i of its kind is row start + i * dilation of the image.

    Attributes:
      grid: what it is a part of.
      image: its number in the batch.
      start: the first row of the image of this kind.
      first: the first row that is this strip's own.
      column: the columns.
      channel: the channels, of which the last may not exist.
    """

    grid: Grid
    image: jax.Array
    start: jax.Array
    first: jax.Array
    column: Int[Array, " w"]
    channel: Int[Array, " c"]

    def has_channel(self) -> Bool[Array, " c"]:
        """Which channels exist."""
        return self.channel < self.grid.shape[3]

    def vector(self, ref: Any, *index: int) -> Float[Array, "1 c"]:
        """This strip's channels of a vector, or of a row of a matrix, float32."""
        value = triton.load(ref.at[(*index, self.channel)], mask=self.has_channel(), other=0)
        return value.astype(jnp.float32)[None]

    def kernel(self, ref: Any) -> list[list[Float[Array, "1 c"]]]:
        """This strip's channels of a kernel [9, C], by row and column, float32."""
        return [[self.vector(ref, 3 * i + j) for j in range(3)] for i in range(3)]

    def inside(self, i: Any, shift: int = 0) -> Bool[Array, "w 1"]:
        """Which pixels of row i, `shift` columns to the right, are in the image."""
        _, height, width, _ = self.grid.shape
        row, column = self.start + i * self.grid.dilation, self.column + shift * self.grid.dilation
        return ((i >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]

    def own(self, i: Any) -> Bool[Array, "w 1"]:
        """Which pixels of row i are this strip's."""
        return self.inside(i) & (i >= self.first) & (i < self.first + self.grid.rows)

    def load(self, ref: Any, i: Any, mask: Bool[Array, "w 1"], shift: int = 0) -> Float[Array, "w c"]:
        """The pixels of row i, `shift` columns to the right; 0 where the mask is false."""
        return triton.load(ref.at[self._index(i, shift)], mask=mask & self.has_channel()[None], other=0)

    def store(self, ref: Any, i: Any, values: Float[Array, "w c"]) -> None:
        """Writes this strip's own pixels of row i."""
        triton.store(ref.at[self._index(i)], values.astype(ref.dtype), mask=self.own(i) & self.has_channel()[None])

    def store_sum(self, ref: Any, number: int, values: Float[Array, " c"]) -> None:
        """Writes one of this strip's sums into [B, strips of an image, sums, C]."""
        index = self.image, pl.program_id(1), number, self.channel
        triton.store(ref.at[index], values, mask=self.has_channel())

    def _index(self, i: Any, shift: int = 0) -> tuple:
        row, column = self.start + i * self.grid.dilation, self.column + shift * self.grid.dilation
        return self.image, (row * self.grid.shape[2] + column)[:, None], self.channel[None]


def as_operator(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, a function of maps and parameters, on NVIDIA's GPUs, if they can run it; elsewhere `plain`.

    Derivatives of every order, and `vmap`, are those of `plain`.
    """

    def value(x: jax.Array, *others: jax.Array) -> Any:
        return lax.platform_dependent(x, *others, cuda=kernel if compiles_for(x) else plain, default=plain)

    return kernels.as_operator(value, plain)


def compiles_for(x: jax.Array) -> bool:
    """Whether kernels can be used for a batch: it is known how it is split, and the GPU is one that Triton knows.

    NVIDIA's GPUs before compute capability 8.0 have none. A GPU that is planned for, and is not there, has.
    """
    if triton is None or kernels.images_per_device(x.shape[0]) == 0:
        return False
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return not re.match(r"[1-7]\.", capability)


def multiply_add(x: jax.Array, y: jax.Array, z: jax.Array, interpret: bool = False) -> jax.Array:
    """x * y + z of one shape after broadcasting, float32, rounded once: half the instructions.

    Triton as XLA calls it never contracts a product and a sum. Only compiled kernels know the instruction.
    """
    if interpret:
        return x * y + z
    args = jnp.broadcast_arrays(x, y, z)
    result = jax.ShapeDtypeStruct(args[0].shape, jnp.float32)
    asm = "fma.rn.f32 $0, $1, $2, $3;"
    return triton.elementwise_inline_asm(asm, args=args, constraints="=f,f,f,f", pack=1, result_shape_dtypes=[result])[
        0
    ]


def add_products(
    taps: Sequence[jax.Array], rows: Sequence[Sequence[jax.Array]], totals: Sequence[jax.Array], interpret: bool
) -> list[jax.Array]:
    """Adds a row's three taps to three totals: to each the products with its own row of the kernel."""
    totals = list(totals)
    for tap, column in zip(taps, zip(*rows, strict=True), strict=True):
        totals = [multiply_add(tap, factor, total, interpret) for factor, total in zip(column, totals, strict=True)]
    return totals


def flat(x: Float[Array, "B H W C"]) -> Float[Array, "B HW C"]:
    """A map with one axis of pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height * width, channels)


def cost(maps: int, flops: int, x: jax.Array) -> pl.CostEstimate:
    """A kernel's cost: so many maps of x's size read or written, so many operations a pixel and channel."""
    size = math.prod(x.shape)
    return pl.CostEstimate(flops=flops * size, transcendentals=0, bytes_accessed=maps * size * x.dtype.itemsize)
