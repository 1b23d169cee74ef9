"""PyTorch's .pth, .pt, .bin and .ckpt: pickles, read by PyTorch without running their code (`weights_only`)."""

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import sandbox
from xception_jax.formats.zips import ERRORS, open_zip

PROGRAM = 'x = torch.jit.load("{name}"); torch.save(x.state_dict(), "weights.pth")'
NETWORK = (
    'x = torch.load("{name}", weights_only=False); '
    'torch.save(x["state_dict"] if isinstance(x, dict) else x.state_dict(), "weights.pth")'
)
MODULE = b"ctorch.nn.modules."  # the first letter says that a class's name follows
MAX_PICKLE = 8 << 20  # a network's classes come before its numbers


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a state dict by name; metadata as of `sandbox_child.read_torch`.

    Raises:
      WeightsFileError: PyTorch is not installed, the file is damaged, it would run code, or it is a program or a whole
        network, not a state dict.
    """
    try:
        pickled, program = _look(path)
    except ERRORS as e:
        raise WeightsFileError(f"{path} is damaged: {e}") from None
    if program:
        raise _refused(path, "a TorchScript program", PROGRAM)
    if MODULE in pickled:
        raise _refused(path, "a pickle with a whole network in it", NETWORK)
    if importlib.util.find_spec("torch") is None:
        raise WeightsFileError(
            f"{path} is a pickle, which only PyTorch can read: install torch, or use a .safetensors file"
        )
    return sandbox.read("torch", path, path)


def _refused(path: Path, what: str, how: str) -> WeightsFileError:
    return WeightsFileError(
        f"{path} is {what}, which is code, not a state dict; if you trust it, convert it where it runs: "
        f"import torch; {how.format(name=path.name)}"
    )


def _look(path: Path) -> tuple[bytes, bool]:
    """The start of the file's pickles, and whether the file is a TorchScript program. Verifies a zip file's checksums.

    Raises:
      ValueError or another of `ERRORS`: it is damaged.
    """
    if not zipfile.is_zipfile(path):  # before PyTorch 1.6
        with path.open("rb") as f:
            return f.read(MAX_PICKLE), False
    with open_zip(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged!r} is wrong")
        names = archive.namelist()
        program = any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names)
        pickled = next(name for name in names if name.endswith("data.pkl"))  # `detect` has seen it
        with archive.open(pickled) as member:
            return member.read(MAX_PICKLE), program
