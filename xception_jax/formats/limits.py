"""Limits on weight files, so that no file can exhaust its reader's time or memory.

Every size that a file states is checked against the file's own size before memory is allocated for it.
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_TENSORS = 20_000
MAX_NAME = 1024  # characters
MAX_RANK = 8


def max_expansion(stored: int) -> int:
    """The maximum size of `stored` compressed bytes after decompression. Weights rarely compress to less than half."""
    return 20 * stored + (64 << 20)


def num_bytes(shape: Sequence[object], dtype: np.dtype) -> int:
    """Memory of an array, in bytes, computed without overflow.

    Raises:
      ValueError: not a valid shape for an array of weights.
    """
    if len(shape) > MAX_RANK:
        raise ValueError(f"an array has {len(shape)} axes")
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError(f"an axis has size {size!r}")
    return math.prod(shape) * dtype.itemsize  # type: ignore[arg-type]
