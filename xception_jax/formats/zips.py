"""Zip files, such as .npz, .keras and .pth: opened only if their contents are within the limits for their size."""

import struct
import zipfile
import zlib
from pathlib import Path

from xception_jax.formats.limits import MAX_TENSORS, max_expansion

STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1
END = b"PK\x05\x06"
# Errors that `zipfile` raises for damaged files.
ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError, OverflowError)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip file, if its members have known compression and a bounded total size.

    Raises:
      ValueError or another of `ERRORS`: it is damaged, or a zip bomb.
    """
    archive = zipfile.ZipFile(path)
    try:
        _check(archive, path)
    except ValueError:
        archive.close()
        raise
    return archive


def _check(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    with path.open("rb") as f:
        f.seek(-22, 2)
        end = f.read()
    if end[:4] != END:
        raise ValueError("there is data after the end of the zip file")
    # A damaged directory can lose entries, and has no checksum of its own.
    if int.from_bytes(end[10:12], "little") != len(members):
        raise ValueError(f"its directory has {len(members)} members, but its end record states another number")
    if len(members) > MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} members")
    if len({m.filename for m in members}) < len(members):
        raise ValueError("two members have the same name")
    for m in members:
        if m.compress_type not in STORED_OR_DEFLATED or m.flag_bits & ENCRYPTED:
            raise ValueError(f"{m.filename!r} is encrypted, or compressed in an unusual way")
    unpacked, limit = sum(m.file_size for m in members), max_expansion(path.stat().st_size)
    if unpacked > limit:
        raise ValueError(
            f"it would unpack to {unpacked} bytes, more than the {limit} allowed for its size: a zip bomb?"
        )


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, with its stated size and checksum verified.

    Raises:
      ValueError or another of `ERRORS`: it is damaged.
    """
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        data = member.read(size)  # without a size, everything would be decompressed, whatever size is stated
    if len(data) != size:
        raise ValueError(f"{name!r} has {len(data)} bytes, but states {size}")
    return data
