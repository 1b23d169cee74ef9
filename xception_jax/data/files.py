"""Which files of a folder are pictures: whatever can be read, found by name, or by the first bytes of other names."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xception_jax.data.headers import FIRST_BYTES, picture_format

# Endings of what `decode` reads. Files that have one are not opened here.
ENDINGS = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
        *(".ppm", ".ras", ".sr", ".tif", ".tiff", ".webp"),
    )
)
# Endings of what is often beside pictures, which are not opened either: there may be as many of them.
OTHERS = frozenset((".csv", ".json", ".jsonl", ".mat", ".md", ".npy", ".npz", ".pdf", ".py", ".txt", ".xml", ".zip"))
# What systems leave behind: Synology, macOS' archives, Windows. Names that begin with a dot are hidden anyway.
LEFT_BEHIND = frozenset(("@eadir", "__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or left behind by a system."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files in a folder and its subfolders that are not hidden, sorted by path.

    Links are followed; each folder is seen once, however it is linked.
    """
    return _walk(str(folder), set())


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[os.DirEntry[str]]:
    status = os.stat(folder)  # noqa: PTH116 a Path for each of a million entries takes longer than this walk
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        there = sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
    for entry in there:
        if entry.is_dir():
            yield from _walk(entry.path, seen)
        else:
            yield entry


def pictures(folder: Path, passed_over: Counter[str] | None = None) -> Iterator[Path]:
    """The pictures in a folder and its subfolders, in the order of `walk`.

    Args:
      folder: where to look.
      passed_over: counts the endings of files that are no pictures; "" is for those without.
    """
    for entry in walk(folder):
        if _is_picture(entry):
            yield Path(entry.path)
        elif passed_over is not None:
            passed_over[Path(entry.name).suffix.lower()] += 1


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """Whether an entry that is no folder is a picture. A link to nowhere may be one: reading it says what is wrong."""
    ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    if not entry.is_file() and Path(entry.path).exists():  # a pipe, say, which would never be read to its end
        return False
    if ending in ENDINGS or ending in OTHERS:
        return ending in ENDINGS
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return picture_format(file.read(FIRST_BYTES)) is not None
    except OSError:
        return False


def said(folder: Path, passed_over: Counter[str]) -> str:
    """What was passed over, as a sentence."""
    by_count = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    counts = (f"{count:,} {ending or 'without an ending'}" for ending, count in by_count)
    return f"passed over in {printable(folder)}: {', '.join(counts)}"


def printable(name: str | Path) -> str:
    r"""A file's name or path as text that can be printed and written anywhere: bytes that are no UTF-8 become \xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
