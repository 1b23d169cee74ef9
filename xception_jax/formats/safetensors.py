"""Hugging Face's safetensors (github.com/huggingface/safetensors): the header's length (8 bytes), a header in JSON, the
arrays' bytes without gaps. Nothing in it is run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from xception_jax.formats.errors import WeightsFileError
from xception_jax.formats.limits import MAX_TENSORS, num_bytes

MAX_HEADER = 16 << 20
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name, read-only, and the file's own metadata (texts).

    Raises:
      WeightsFileError: the file is damaged.
    """
    try:
        return parse(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise WeightsFileError(f"{path} is damaged, or no safetensors file: {e}") from None


def parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`read` of a file's bytes.

    Raises:
      ValueError, RecursionError: they are damaged.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > min(len(data), MAX_HEADER):
        raise ValueError(f"a header of {start - 8} bytes in a file of {len(data)}")
    header = json.loads(data[8:start].decode(), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is not a dictionary")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("the metadata are not texts")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} arrays")
    places = {name: _place(name, description) for name, description in header.items()}
    end = 0
    for name, (dtype, shape, (begin, stop)) in sorted(places.items(), key=lambda item: item[1][2]):
        if begin != end or stop - begin != num_bytes(shape, dtype):
            raise ValueError(f"{name} is at {begin}..{stop}, not in its place or not of its shape's size")
        end = stop
    if end != len(data) - start:
        raise ValueError(f"{len(data) - start} bytes of arrays, the header says {end}")
    buffer = memoryview(data)[start:]
    return {
        name: np.frombuffer(buffer[begin:stop], dtype).reshape(shape)
        for name, (dtype, shape, (begin, stop)) in places.items()
    }, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _place(name: str, description: Any) -> tuple[np.dtype, list[int], tuple[int, int]]:
    """An array's dtype, shape, and first and last byte, checked to be of those kinds."""
    match description:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(stop)]} if code in DTYPES:
            return np.dtype(DTYPES[code]), shape, (begin, stop)
        case {"dtype": str(code)} if code not in DTYPES:
            raise ValueError(f'{name} is of dtype "{code[:20]}", which weights are not of')
    raise ValueError(f"{name} has no dtype, shape and place")


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays, those of the widest numbers first as the format's own library does, so that all are aligned.

    Raises:
      KeyError: an array is of a dtype that the format does not have.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, x in ordered:
        header[name] = {"dtype": CODES[x.dtype], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, x in ordered:
        file.write(np.ascontiguousarray(x).tobytes())
