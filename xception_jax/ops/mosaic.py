"""What the Pallas kernels for TPUs have in common.

Maps are [H, W, B, C] in them, as XLA lays maps out on TPUs: pictures and channels fill tiles, so that a pixel's
neighbours are whole tiles. A program of the grid takes rows of some pictures; what the next one needs of them stays in
on-chip memory.

Shape legend: B batch, H height, W width, C channels.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

from xception_jax.ops import kernels

LANES = 128
# On-chip memory for one kernel, less than a core of any TPU has since v5 (64 MiB and more; before it was 16).
MEMORY = 48 * 2**20
BLOCKS = (32, 16, 8)  # pictures of a program: rows of tiles; the more, the better the matrix unit is used
UNROLL = 4


def has_kernels() -> bool:
    """Whether the TPUs that are traced for have the memory, and it is known how a batch is split over them."""
    return kernels.batch_axes() is not None and not re.search("TPU v[234]", kernels.device_kind())


def pictures_of_a_program(batch: int, bytes_a_picture: int, others: int = 0) -> int:
    """How many pictures a program takes: as many as fit and divide the batch; 0 where none do."""
    for pictures in BLOCKS:
        if batch % pictures == 0 and pictures * bytes_a_picture + others <= MEMORY:
            return pictures
    return 0


def rows_first(x: Float[Array, "B H W C"]) -> Float[Array, "H W B C"]:
    """As kernels take maps."""
    return x.transpose(1, 2, 0, 3)


def pictures_first(x: Float[Array, "H W B C"]) -> Float[Array, "B H W C"]:
    """As all others do."""
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
