"""Printing: tables as wide as the terminal, bytes in units, progress where people look."""

import sys

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

FILE_WIDTH = 160  # columns where nobody's terminal sets a limit: a pipe or a file


def console() -> Console:
    """Where tables are printed. Names of classes and paths are no markup."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(markup=False, emoji=False, highlight=False, width=width)


def table(*columns: str, title: str | None = None, numbers: bool = True) -> Table:
    """A table with a line under its head.

    Args:
      columns: the heads.
      title: over it.
      numbers: whether all columns but the first are aligned to the right.
    """
    result = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, column in enumerate(columns):
        result.add_column(column, overflow="fold", justify="right" if i and numbers else "left")
    return result


def plain_table(*columns: str) -> Table:
    """A table without lines; without heads, too, if there are no `columns`."""
    return Table(*columns, box=None, pad_edge=False, show_header=bool(columns))


def progress(what: str) -> Progress:
    """A bar on standard error where people look; nothing where programs read. `what` is counted: "images"."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    errors = Console(stderr=True)
    return Progress(*columns, console=errors, disable=not errors.is_terminal)


def size(num_bytes: float) -> str:
    """Bytes for people: "1.39 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale / 10:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
