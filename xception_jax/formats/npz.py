"""NumPy's .npz: a zip file of arrays. Arrays of Python objects, which are pickles, are rejected."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from xception_jax.errors import WeightsFileError, reason
from xception_jax.formats.limits import num_bytes
from xception_jax.formats.zips import ERRORS, open_zip, read_member

MAX_HEADER = 4096
NUMBERS = "fiub"


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name, and no metadata.

    Raises:
      WeightsFileError: the file is damaged, or contains anything but numbers.
    """
    try:
        with open_zip(path) as archive:
            arrays = {name: parse(name, read_member(archive, name)) for name in archive.namelist()}
    except ERRORS as e:
        raise WeightsFileError(f"{path} is damaged, or not an .npz file of weights: {e}") from None
    return {name.removesuffix(".npy"): x for name, x in arrays.items()}, {}


def parse(name: str, data: bytes) -> np.ndarray:
    """An array from the bytes of an .npy file.

    Raises:
      ValueError: they are damaged, or not an array of numbers.
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"unknown format version {version}")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(file, max_header_size=MAX_HEADER)
    except Exception as e:  # the header is a Python literal; NumPy's errors for invalid ones are undocumented
        raise ValueError(f"{name!r} is not an array: {reason(e)}") from None
    if dtype.kind not in NUMBERS:
        raise ValueError(f"{name!r} has dtype {dtype}, which is not numeric")
    if num_bytes(shape, dtype) != len(data) - file.tell():
        raise ValueError(f"{name!r} has {len(data) - file.tell()} bytes, which do not match its shape {list(shape)}")
    x = np.frombuffer(data, dtype, offset=file.tell())
    return x.reshape(shape, order="F" if fortran else "C")
