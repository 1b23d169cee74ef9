"""Printing: tables as wide as the terminal, sizes with units, and progress bars on terminals."""

import functools
import sys

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

FILE_WIDTH = 160  # columns when writing to a pipe or a file


def console() -> Console:
    """The console for tables. Markup is off, because class names and paths may contain brackets."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(markup=False, emoji=False, highlight=False, width=width)


def table(*columns: str, title: str | None = None) -> Table:
    """A table with a line under its header; all columns but the first are right-aligned.

    Args:
      columns: the headers.
      title: printed above the table.
    """
    result = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, column in enumerate(columns):
        result.add_column(column, overflow="fold", justify="right" if i else "left")
    return result


def plain_table(*columns: str) -> Table:
    """A table without lines, and without headers if there are no `columns`."""
    whole = [Column(title, overflow="fold") for title in columns]  # rather than shortened
    return Table(*whole, box=None, pad_edge=False, show_header=bool(columns))


def progress(what: str) -> Progress:
    """A progress bar on standard error if it is a terminal, otherwise nothing. `what` is counted: "images"."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
    errors = Console(stderr=True)
    return Progress(*columns, console=errors, disable=not errors.is_terminal)


@functools.cache
def say_once(sentence: str) -> None:
    """Prints a sentence on standard error, the first time it is said in this process."""
    print(sentence, file=sys.stderr)


def size(num_bytes: float) -> str:
    """A human-readable size: "1.39 GB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale / 10:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
