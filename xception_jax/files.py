"""Small files of a work directory, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from xception_jax.errors import UserError


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Writes a file under another name and renames it: a killed process leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = contents.encode() if isinstance(contents, str) else contents
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


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
