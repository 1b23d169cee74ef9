"""Images that are in two splits: what a network has trained on says little of it when it is evaluated on that."""

import collections
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path


def shared_files(train: Iterable[Path], other: Iterable[Path], looked_at: Callable[[Path], None]) -> dict[Path, Path]:
    """The files of a split whose bytes are those of a file of the training split, and one of these for each.

    Files are read only if one of the same size is in the other split.

    Args:
      train, other: the splits' files.
      looked_at: called after each file of `other`.
    """
    sizes: dict[int, list[Path]] = collections.defaultdict(list)
    for path in train:
        sizes[path.stat().st_size].append(path)
    hashes: dict[int, dict[bytes, Path]] = {}
    shared = {}
    for path in other:
        if (size := path.stat().st_size) in sizes:
            if size not in hashes:
                hashes[size] = {digest(same_size): same_size for same_size in sizes[size]}
            if (match := hashes[size].get(digest(path))) is not None:
                shared[path] = match
        looked_at(path)
    return shared


def digest(path: Path) -> bytes:
    """A hash of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").digest()
