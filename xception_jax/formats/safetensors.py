"""Hugging Face's safetensors (github.com/huggingface/safetensors), read by its own library. No code is run."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from xception_jax.errors import WeightsFileError
from xception_jax.formats.limits import MAX_RANK, MAX_TENSORS

MAX_HEADER = 16 << 20  # the library accepts up to 100 MB, which take ten times as much memory
DTYPES = {"F64", "F32", "F16", "BF16", "BOOL", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays by name and the file's own metadata.

    Raises:
      WeightsFileError: the file is damaged.
    """
    try:
        return _read(path)
    except (SafetensorError, ValueError) as e:
        raise WeightsFileError(f"{path} is damaged, or not a safetensors file: {str(e)[:300]}") from None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with path.open("rb") as start:
        length = int.from_bytes(start.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length} bytes")
    with safe_open(path, "numpy") as file:
        names = file.keys()
        if len(names) > MAX_TENSORS:
            raise ValueError(f"it has more than {MAX_TENSORS} arrays")
        return {name: _array(file, name) for name in names}, file.metadata() or {}


def _array(file: safe_open, name: str) -> np.ndarray:
    description = file.get_slice(name)
    dtype, shape = description.get_dtype(), description.get_shape()
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, which is not supported for weights")
    if len(shape) > MAX_RANK:
        raise ValueError(f"{name} has {len(shape)} axes")
    return file.get_tensor(name)
