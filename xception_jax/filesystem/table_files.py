"""Tables in files that programs read: CSV, JSON lines, Parquet."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xception_jax.errors import UserError, needs
from xception_jax.filesystem import atomic

Columns = Mapping[str, Sequence[Any]]


def write_table(path: Path, columns: Columns) -> None:
    """Writes columns of equal length as the file's suffix says, whole or not at all.

    Raises:
      UserError: as `check_table`, or the file cannot be written.
    """
    check_table(path)
    try:
        atomic.write_atomically(path, WRITERS[path.suffix](columns))
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from None


def check_table(path: Path) -> None:
    """Raises UserError unless a table can be written under this name: before the work, not after it."""
    if path.suffix not in WRITERS:
        raise UserError(f"{path} is not a table: its name must end in {', '.join(WRITERS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def _csv(columns: Columns) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue()


def _json_lines(columns: Columns) -> str:
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def _parquet(columns: Columns) -> bytes:
    pyarrow, parquet = _pyarrow()
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({name: list(column) for name, column in columns.items()}), sink)
    return sink.getvalue().to_pybytes()


def _pyarrow() -> tuple[Any, Any]:
    with needs("train", "a .parquet file"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Columns], str | bytes]] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
