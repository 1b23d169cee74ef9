"""Reads a file with a library written in C, in a process of its own: what crashes there doesn't crash here.

The process (`sandbox_child.py`) may use little more time and memory than the file's size calls for, and hands its
arrays back in the one format that needs no such care, safetensors.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import safetensors
from xception_jax.formats.limits import max_expansion

CHILD = Path(__file__).with_name("sandbox_child.py")
SECONDS, SECONDS_PER_GIB = 120, 120  # most of the former to import the library from a cold disk
REFUSED = 3


def read(reader: Literal["hdf5", "torch"], path: Path, source: Path) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and metadata that `sandbox_child.py` finds in a file; `source` is the file's name in errors.

    Raises:
      WeightsFileError: the reader refuses the file, crashes, or exceeds its time or memory.
    """
    size = path.stat().st_size
    seconds = SECONDS + (SECONDS_PER_GIB * size >> 30)
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays"
        # -P: the script's folder isn't searched for modules; names in it are those of libraries.
        command = [sys.executable, "-P", *map(str, (CHILD, reader, path, arrays, max_expansion(size), seconds))]
        try:
            done = subprocess.run(
                command, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise WeightsFileError(f"{source} is damaged: reading it took more than {seconds} s") from None
        if done.returncode == REFUSED:
            raise WeightsFileError(f"{source}: {done.stderr.decode(errors='replace').strip()}")
        if done.returncode != 0:
            end = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise WeightsFileError(f"{source} is damaged: its reader ended with {done.returncode} ({end or 'a crash'})")
        tensors, metadata = safetensors.read(arrays)
    return tensors, json.loads(metadata["json"])
