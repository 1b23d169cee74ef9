"""Folders with weights as Hugging Face's libraries save them: one file, or an index of several parts."""

import json
from pathlib import Path

from xception_jax.errors import WeightsFileError
from xception_jax.formats.limits import MAX_TENSORS

# In the order in which those libraries look for them.
USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".h5", ".hdf5", ".keras", ".npz")
MAX_INDEX = 16 << 20
MAX_PARTS = 1000


def find(path: Path) -> Path | None:
    """The weight file, or the index of its parts, in a folder or in its "checkpoints", where Lightning writes; or None.

    Raises:
      WeightsFileError: the folder has several, of which none has a usual name.
    """
    if not path.is_dir():
        return None
    for name in USUAL:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise WeightsFileError(f"{path} has {len(found)} weight files; name one: {names}")
    return found[0] if found else find(path / "checkpoints")


def parts(index: Path) -> dict[str, list[str]]:
    """The names of the arrays in each file that an index lists; the files are in its folder.

    Raises:
      WeightsFileError: it is damaged, or names files elsewhere.
    """
    if index.stat().st_size > MAX_INDEX:
        raise WeightsFileError(f"{index} is not an index of weights: it has {index.stat().st_size} bytes")
    try:
        places = json.loads(index.read_text())["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsFileError(f'{index} is damaged, or not an index of weights: it has no "weight_map"') from None
    files: dict[str, list[str]] = {}
    for name, file in places:
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or file == "..":
            raise WeightsFileError(f"{index} names a file that is not beside it: {file!r}")
        files.setdefault(file, []).append(name)
    if not 0 < len(files) <= MAX_PARTS or len(places) > MAX_TENSORS:
        raise WeightsFileError(f"{index} lists {len(places)} arrays in {len(files)} files")
    return files
