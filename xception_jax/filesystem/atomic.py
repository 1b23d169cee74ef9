"""Files that are complete or do not exist, whatever happens to their writer, and however many write the same."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to write to: renamed to `path` at the end of the block, or deleted on an error.

    No two writers have the same one, not even in two containers that share a folder, where processes have the same
    numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, contents: str | bytes, *, durable: bool = True) -> None:
    """Writes a file whole: a killed process leaves the old file or the new one.

    `durable`: a power cut does, too; this takes some milliseconds.
    """
    with replacing(path) as temporary, temporary.open("wb") as f:
        f.write(contents.encode() if isinstance(contents, str) else contents)
        f.flush()
        if durable:
            os.fsync(f.fileno())
