"""PyTorch's .pth and .pt: pickles, read by PyTorch without running their code (`weights_only`)."""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import sandbox
from xception_jax.formats.zips import ERRORS, open_zip


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a state dict by name.

    Raises:
      WeightsFileError: PyTorch is not installed, the file is damaged, or it would run code.
    """
    if importlib.util.find_spec("torch") is None:
        raise WeightsFileError(
            f"{path} is a pickle, which only PyTorch can read: install torch, or use a .safetensors file"
        )
    if zipfile.is_zipfile(path):  # older files are not
        try:
            with open_zip(path) as archive:
                if (name := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {name!r} is wrong")
        except ERRORS as e:
            raise WeightsFileError(f"{path} is damaged: {e}") from None
    return sandbox.read("torch", path, path)
