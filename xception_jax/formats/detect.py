"""Weight files of every supported format, recognised by their contents, not their names."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import hdf5, npz, safetensors, tensor_bundle, torch_pickle, weight_folders

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # before PyTorch 1.6
LFS_START = b"version https://git-lfs"

Tensors = dict[str, np.ndarray]
Reader = Callable[[Path], tuple[Tensors, dict[str, Any]]]


def _read_parts(index: Path) -> tuple[Tensors, dict[str, Any]]:
    """The arrays of all files that an index lists, which have to be those that it says."""
    tensors: Tensors = {}
    for file, names in weight_folders.parts(index).items():
        kind = recognize(index.with_name(file))
        if kind not in ("safetensors", "torch"):
            raise WeightsFileError(f"{index.with_name(file)} is not a part of weights, but of format {kind}")
        found, _ = READERS[kind](index.with_name(file))
        if found.keys() != set(names):
            other = sorted(found.keys() ^ set(names))[0]
            raise WeightsFileError(f"{index.with_name(file)} does not have the arrays that its index lists: {other}")
        tensors |= found
    return tensors, {}


READERS: dict[str, Reader] = {
    "safetensors": safetensors.read,
    "npz": npz.read,
    "hdf5": hdf5.read_hdf5,
    "keras": hdf5.read_keras,
    "torch": torch_pickle.read,
    "tensor bundle": lambda path: (tensor_bundle.read(path), {}),
    "index of parts": _read_parts,
}


def read_tensors(path: str | Path) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a weight file.

    Args:
      path: a file, a TensorFlow SavedModel or checkpoint folder, a TensorFlow checkpoint's prefix, or a folder with
        weights as in `folders`. Our own work directories and checkpoints are not read here.

    Returns:
      The format, one of `READERS`; the arrays by the file's own names (for Keras, "layer/variable"); the file's
      metadata, which depends on the format.

    Raises:
      WeightsFileError: the file does not exist, its format is unknown, or it is damaged.
    """
    path = weights_in(Path(path))
    name = recognize(path)
    try:
        return name, *READERS[name](path)
    except OSError as e:
        raise WeightsFileError(f"{path} cannot be read: {e.strerror or e}") from None


def weights_in(path: Path) -> Path:
    """The weight file, or the index of its parts, in a folder that is not TensorFlow's; otherwise `path`.

    Raises:
      WeightsFileError: the folder has several.
    """
    return path if tensor_bundle.find(path) is not None else weight_folders.find(path) or path


def recognize(path: Path) -> str:
    """The format of a file or folder, one of `READERS`.

    Raises:
      WeightsFileError: the path does not exist, or the format is unknown.
    """
    if tensor_bundle.find(path) is not None:
        return "tensor bundle"
    if path.is_dir():
        raise WeightsFileError(
            f"{path} has no weights: it is not a SavedModel (neither variables/variables.index nor a *.index file), "
            f"and has none of {', '.join(weight_folders.USUAL)}"
        )
    if not path.is_file():
        raise WeightsFileError(f"{path} does not exist")
    with path.open("rb") as f:
        start = f.read(32)
    if start.startswith(HDF5_MAGIC):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return _recognize_zip(path)
    if start.startswith(TORCH_MAGIC):
        return "torch"
    if path.name.endswith(".index.json"):
        return "index of parts"
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith(LFS_START):
        raise WeightsFileError(
            f"{path} is a Git LFS pointer to a file that was not downloaded; fetch it with `git lfs pull`"
        )
    known = ", ".join(READERS)
    raise WeightsFileError(f"{path} is not a weight file: it begins with {start[:8]!r}; known formats: {known}")


def _recognize_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as e:  # `zipfile` raises many kinds of errors for damaged files
        raise WeightsFileError(f"{path} is a damaged zip file: {e}") from None
    if hdf5.CONFIG in names and hdf5.WEIGHTS in names:
        return "keras"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise WeightsFileError(f"{path} is a zip file, but not .npz, .keras or PyTorch's")
