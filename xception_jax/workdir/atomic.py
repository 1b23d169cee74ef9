"""Small files of a work directory, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from absl import logging

from xception_jax.errors import UserError


def write_atomically(path: Path, contents: str | bytes, *, durable: bool = True) -> None:
    """Writes a file under another name and renames it: a killed process leaves the old one or the new one.

    `durable`: so does a power cut; that takes some milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = contents.encode() if isinstance(contents, str) else contents
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            if durable:
                os.fsync(f.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class PatientFile:
    """A file that is appended to. What can't be written now (the disk is full, say) is written when it can be."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._waiting = b""

    def append(self, data: bytes) -> None:
        """Appends `data`, which is then in the operating system's hands: a killed process loses none of it."""
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._fd, self._waiting) :]
        except OSError as e:
            logging.log_every_n_seconds(logging.WARNING, "the log waits to be written: %s", 60, e)

    def close(self) -> None:
        """Tries once more to write what waits."""
        self.append(b"")
        os.close(self._fd)


def read_json(path: Path) -> Any:
    """The contents of a JSON file of a work directory.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} a work directory?") from None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete it, or use another work directory") from None
