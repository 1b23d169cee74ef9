"""Hashes of a folder's files, by which damage to them is recognised.

Orbax checks its index, not the numbers that it points to: of single bits flipped in the data files of a checkpoint, two
in five were restored as other weights without a word.
"""

import hashlib
import json
from pathlib import Path

from xception_jax.workdir import atomic

NAME = "sha256.json"
# Orbax writes these once more after the hashes; training reads nothing of them.
NOT_HASHED = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}


def write(folder: Path) -> None:
    """Writes the SHA-256 of every file under `folder` into it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_HASHED)
    hashes = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    atomic.write_atomically(folder / NAME, json.dumps(hashes, indent=0) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with the first file that is not as it was written, or None where all are."""
    try:
        hashes = json.loads((folder / NAME).read_text())
        for name, sha256 in hashes.items():
            if _sha256(folder / name) != sha256:
                return f"{name} is not as it was written"
    except (OSError, ValueError, AttributeError) as e:  # the hashes themselves can be damaged in any way
        return f"{NAME} or a file that it names cannot be read ({e})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
