"""What the Pallas kernels for TPUs have in common.

Maps are [H, W, B, C] in them, as XLA lays maps out on TPUs: images and channels fill tiles, so that a pixel's
neighbours are whole tiles. A program of the grid takes rows of some images; what the next one needs of them stays in
on-chip memory.

Shape legend: B batch, H height, W width, C channels.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xception_jax.ops import kernels

F32 = jnp.float32
TAPS = tuple(itertools.product(range(3), range(3)))  # of a 3x3 window, row by row
LANES = 128
# On-chip memory for one kernel, less than a core of any TPU has since v5 (64 MiB and more; before it was 16).
MEMORY = 48 * 2**20
BLOCKS = (32, 16, 8)  # images of a program: rows of tiles; the more, the better the matrix unit is used
UNROLL = 4


def has_kernels() -> bool:
    """Whether what is traced for is a TPU with the memory for them."""
    return re.match(r"TPU ?v?([5-9]|[1-9]\d)", kernels.device_kind()) is not None


def images_per_program(batch: int, bytes_per_image: int, others: int = 0) -> int:
    """How many images a program takes: as many as fit and divide a device's batch; 0 where none do."""
    for images in BLOCKS:
        if batch and batch % images == 0 and images * bytes_per_image + others <= MEMORY:
            return images
    return 0


Operand = tuple[jax.Array, pl.BlockSpec]
Result = tuple[jax.ShapeDtypeStruct, pl.BlockSpec]


def call(
    program: Callable[..., None],
    grid: tuple[int, int, int],
    operands: Sequence[Operand],
    results: Sequence[Result],
    scratch: Sequence[Any],
    *,
    parallel: int,
    flops: int,
    name: str,
    interpret: Any,
) -> list[jax.Array]:
    """A kernel's results.

    Args:
      program: takes references to blocks of operands and results, and to what stays in on-chip memory between programs.
      operands, results: each array, or its shape and dtype, with the blocks that programs take.
      scratch: what stays.
      parallel: how many of the grid's first dimensions may be divided among the cores of a chip.
      flops: of all programs together, for the compiler's schedule and for `plan`.
      interpret: whether it is interpreted, on any platform, slowly; or how.
    """
    arrays, in_specs = zip(*operands, strict=True)
    shapes, out_specs = zip(*results, strict=True)
    moved = sum(a.size * a.dtype.itemsize for a in (*arrays, *shapes))
    semantics = [pltpu.PARALLEL] * parallel + [pltpu.ARBITRARY] * (len(grid) - parallel)
    return pl.pallas_call(
        program,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=shapes,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=MEMORY),
        cost_estimate=pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved),
        interpret=interpret,
        name=name,
    )(*arrays)


def rows_first(x: Float[Array, "B H W C"]) -> Float[Array, "H W B C"]:
    """As maps are in kernels."""
    return x.transpose(1, 2, 0, 3)


def batch_first(x: Float[Array, "H W B C"]) -> Float[Array, "B H W C"]:
    """As maps are outside kernels."""
    return x.transpose(2, 0, 1, 3)


def columns(width: int, column: Callable[[Any, tuple], tuple], carried: tuple = ()) -> tuple:
    """`column(w, carried)` for each column; some at a time, so that what one waits for another computes in."""

    def several(i: jax.Array, carried: tuple) -> tuple:
        for k in range(UNROLL):
            carried = column(i * UNROLL + k, carried)
        return carried

    whole = width // UNROLL
    carried = lax.fori_loop(0, whole, several, carried)
    for w in range(whole * UNROLL, width):
        carried = column(w, carried)
    return carried
