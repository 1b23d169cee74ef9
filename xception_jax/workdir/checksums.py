"""Hashes of a folder's files, which detect damage.

Orbax verifies its index, but not the data: of single bits flipped in the data files of a checkpoint, two in five were
restored as different weights without an error.
"""

import hashlib
import json
from pathlib import Path

from xception_jax.filesystem import atomic

NAME = "sha256.json"
# Orbax rewrites these after the hashes are written; training does not read them.
NOT_HASHED = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}


def write(folder: Path) -> None:
    """Writes the SHA-256 hashes of all files under `folder` into it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_HASHED)
    hashes = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    atomic.write_atomically(folder / NAME, json.dumps(hashes, indent=0) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with the first damaged file, or None if all files are intact."""
    try:
        hashes = json.loads((folder / NAME).read_text())
        for name, sha256 in hashes.items():
            if _sha256(folder / name) != sha256:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, AttributeError) as e:  # the file of hashes may itself be damaged
        return f"{NAME} or a file listed in it cannot be read ({e})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
