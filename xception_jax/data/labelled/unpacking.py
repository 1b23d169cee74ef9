"""Data sets that have their images inside of large files: unpacked once, into files and a table of them.

Everything else then works on files. To read images where they are would not do: a Parquet file gives no image without
the hundreds around it, which training in random order would decode again for each.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from xception_jax.data.headers import FIRST_BYTES, picture_format
from xception_jax.data.labelled.columns import Columns, Table, read_table
from xception_jax.data.labelled.images import Labelled
from xception_jax.data.labelled.labels import Classes
from xception_jax.data.labelled.tables import read_files
from xception_jax.errors import UserError, needs
from xception_jax.filesystem import atomic, paths
from xception_jax.tasks.task import TaskName
from xception_jax.terminal.console import progress, size

TABLE = "images.parquet"
VERSION = 2  # of what is written into it
LONGEST_NAME = 80
END_BYTES = 65_536


class Row(NamedTuple):
    """One image: its file's name without an ending, what is in it, and what else is said of it, as in `Table`."""

    name: str
    image: bytes
    cells: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Packed:
    """A data set that has its images inside of large files.

    Attributes:
      name: as the user gave it.
      root: the folder of `files`.
      files: those that it is in: if one changes, all is unpacked again.
      count: number of images.
      image: the column of images.
      classes: of columns of labels whose classes are known.
      rows: reads the images in order.
      label: the column of labels; None: found by its name, or the only one in `classes`.
      remarks: what was passed over, a sentence each.
    """

    name: str
    root: Path
    files: list[Path]
    count: int
    image: str
    classes: Mapping[str, Classes]
    rows: Callable[[], Iterator[Row]]
    label: str | None = None
    remarks: tuple[str, ...] = ()


def read_packed(packed: Packed, columns: Columns | None, task: TaskName | None) -> Labelled:
    """The images of a packed data set, unpacked if they are not yet; the split is "" if it has none."""
    path, table = _unpack(packed)
    wanted = columns or Columns()
    label = packed.label if wanted.label is None else wanted.label
    wanted = dataclasses.replace(wanted, file=packed.image, label=label)
    found = read_files(path, wanted, task, 0, packed.classes, table, name=packed.name)
    where = f"The images of {packed.name} are unpacked in {path.parent}."
    return dataclasses.replace(found, remarks=(where, *packed.remarks, *found.remarks))


def file_name(folder: str, position: int, given: str) -> str:
    """The name of an image's file, without an ending, by its position and the name that it has in the data set."""
    stem = _plain(Path(given).stem)[:LONGEST_NAME]
    return f"{folder}/{position:06}{'_' if stem else ''}{stem}"


def _unpack(packed: Packed) -> tuple[Path, Table]:
    """The path and table of the unpacked images; those that are not there are unpacked, by any number of processes."""
    with needs("train", f"unpacking {packed.name}"):
        import pyarrow
        import pyarrow.parquet

    folder = _folder(packed, paths.kept("data"))
    path = folder / TABLE
    if path.is_file():
        table = read_table(path)
        if all((folder / file).is_file() for file in table[packed.image]):
            return path, table
    if not packed.count:
        raise UserError(f"{packed.name} has 0 rows: there are no images in it")
    num_bytes = sum(file.stat().st_size for file in packed.files)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if there != folder and (free := shutil.disk_usage(there).free) < num_bytes:
        raise UserError(
            f"{packed.name} has {size(num_bytes)} to unpack, but {there} has {size(free)} left; set "
            "XCEPTION_JAX_CACHE to a folder with more"
        )
    paths.make_kept(folder, f"the images of {packed.name}")
    print(f"unpacking {packed.count:,} images of {packed.name} ({size(num_bytes)}), once, into {folder}", flush=True)
    table = defaultdict(list)
    with progress("images") as bar:
        task = bar.add_task("", total=packed.count)
        for row in packed.rows():
            kind = picture_format(row.image[:FIRST_BYTES]) or "unknown"
            file = f"{row.name}.{_plain(kind.lower())}"
            if not _is_there(folder / file, row.image):
                atomic.write_atomically(folder / file, row.image, durable=False)
            for name, cell in {packed.image: file, **row.cells}.items():
                table[name].append(cell)
            bar.advance(task)
    written = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(dict(table)), written)
    atomic.write_atomically(path, written.getvalue().to_pybytes())
    return path, table


def _folder(packed: Packed, kept: Path) -> Path:
    """The folder in `kept` for the images, whose name has that of the data set, for people, and its files' state.

    A data set that has been moved or renamed since it was unpacked stays where it is.
    """
    states = [
        (file.relative_to(packed.root).as_posix(), (state := file.stat()).st_size, state.st_mtime_ns, _end(file))
        for file in packed.files
    ]
    digest = hashlib.sha256(json.dumps([VERSION, states, packed.image]).encode()).hexdigest()[:12]
    folder = kept / f"{_plain(paths.data_name(packed.name))}-{digest}"
    others = [other for other in sorted(kept.glob(f"*-{digest}")) if (other / TABLE).is_file()]
    return others[0] if others and not folder.exists() else folder


def _end(file: Path) -> str:
    """The last bytes, where formats have what is in the file and where: archives may give all files the same time."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - END_BYTES))
        return hashlib.sha256(opened.read()).hexdigest()


def _plain(name: str) -> str:
    """As much of a name as a file's name may have anywhere."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)


def _is_there(path: Path, contents: bytes) -> bool:
    """Whether a file has been unpacked: files are there whole, or not at all."""
    return path.is_file() and path.stat().st_size == len(contents)
