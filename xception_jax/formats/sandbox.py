"""Reads a file with a library written in C in a separate process, so that a crash there does not crash this process.

The process (`sandbox_child.py`) may use little more time and memory than the file's size warrants. It returns the
arrays as safetensors, a format that is safe to read here.
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
SECONDS, SECONDS_PER_GIB = 120, 120  # the former mostly to import the library from a cold disk
REFUSED = 3


def read(reader: Literal["hdf5", "torch"], path: Path, source: Path) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and metadata that `sandbox_child.py` reads from a file; `source` is the file's name in errors.

    Raises:
      WeightsFileError: the reader rejects the file, crashes, or exceeds its time or memory limit.
    """
    size = path.stat().st_size
    seconds = SECONDS + (SECONDS_PER_GIB * size >> 30)
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays"
        # -P: do not search the script's folder for modules, as some there have the names of libraries.
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
            raise WeightsFileError(
                f"{source} is damaged: its reader exited with code {done.returncode} ({end or 'a crash'})"
            )
        tensors, metadata = safetensors.read(arrays)
    return tensors, json.loads(metadata["json"])
