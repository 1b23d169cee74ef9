"""Limits on what a weight file may ask for, so that no file makes its reader use up time or memory.

Every size that a file states is held against the file's own size before anything is allocated for it.
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_TENSORS = 20_000
MAX_NAME = 1024  # characters
MAX_RANK = 8


def max_expansion(stored: int) -> int:
    """Most bytes that `stored` compressed bytes may unfold to. Weights compress badly: seldom to less than a half."""
    return 20 * stored + (64 << 20)


def num_bytes(shape: Sequence[object], dtype: np.dtype) -> int:
    """Memory of an array, in whole numbers of any size.

    Raises:
      ValueError: no shape of an array of weights.
    """
    if len(shape) > MAX_RANK:
        raise ValueError(f"an array of {len(shape)} axes")
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError(f"an axis of size {size!r}")
    return math.prod(shape) * dtype.itemsize  # type: ignore[arg-type]
