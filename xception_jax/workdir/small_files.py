"""Small files of a work directory: its JSON, and logs that are appended to."""

import json
import os
from pathlib import Path
from typing import Any

from absl import logging

from xception_jax.errors import UserError


class PatientFile:
    """A file that is appended to. Data that cannot be written now (the disk is full, say) is written later."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._waiting = b""

    def append(self, data: bytes) -> None:
        """Appends `data` and passes it to the operating system, so that a killed process does not lose it."""
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._fd, self._waiting) :]
        except OSError as e:
            logging.log_every_n_seconds(logging.WARNING, "the log cannot be written, will retry: %s", 60, e)

    def close(self) -> None:
        """Tries once more to write pending data."""
        self.append(b"")
        os.close(self._fd)


def read_json(path: Path) -> Any:
    """The contents of a JSON file of a work directory.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} a work directory?") from None
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}); delete it, or use another work directory") from None
