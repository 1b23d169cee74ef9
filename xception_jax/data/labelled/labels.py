"""What the labels of a table say: the task, the classes and the targets.

Shape legend: N images, K classes, or numbers to predict.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xception_jax.data.labelled.columns import LISTED, TRUE, are_flags
from xception_jax.errors import UserError, some
from xception_jax.tasks.task import TaskName

# Between several labels of a cell, in the order in which they are looked for.
SEPARATORS = (LISTED, "|", ";", ",", " ")
NEVER_IN_NAMES = (LISTED, "|", ";")  # a comma or a space may be part of a class name
PLURAL = re.compile("labels|tags|classes|categories|keywords|findings", re.IGNORECASE)
CLASS_LIKE = re.compile("class|label|categor|species|diagnos", re.IGNORECASE)
MOST_INTEGER_CLASSES = 20  # integers of more values are numbers, unless the column's name is that of classes


class Labels(NamedTuple):
    """Class names and targets as in `Labelled`, and what was inferred or passed over."""

    task: TaskName
    class_names: tuple[str, ...]
    targets: np.ndarray
    remarks: tuple[str, ...]


class Classes(NamedTuple):
    """What is known of a column of labels before they are read.

    Attributes:
      task: what they are for.
      class_names: the classes in their order.
      separator: between several in a cell.
    """

    task: TaskName
    class_names: Sequence[str]
    separator: str = LISTED


def read_labels(
    columns: Mapping[str, Sequence[str]],
    files: Sequence[str],
    *,
    task: TaskName | None = None,
    class_names: Sequence[str] | None = None,
    separator: str | None = None,
) -> Labels:
    """The labels of images.

    Args:
      columns: the cells of one column or several, N each.
      files: the images' names, for messages.
      task: None: inferred.
      class_names: the classes in their order; None: those of the cells, integers by number, others as texts.
      separator: between the labels of a cell; None: inferred.

    Raises:
      UserError: a cell says nothing, or not what the task needs; or two class names differ only in case.
    """
    remarks: tuple[str, ...] = ()
    if task is None:
        task, reason = infer_task(columns)
        remarks = (f"The task is {task}, because {reason}; set the task if it is another.",)
    if task == "regression":
        return Labels(task, tuple(columns), _numbers(columns, files), remarks)
    if len(columns) > 1:
        flags, names = _flags(columns, files), tuple(_canonical(columns, "columns"))
    elif task == "multi_label":
        ((name, cells),) = columns.items()
        flags, names = _split_cells(cells, separator or find_separator(name, cells, sure=True), class_names)
    else:
        ((name, cells),) = columns.items()
        targets, names = _classes(_filled(name, cells, files), class_names)
        return Labels(task, names, targets, remarks)
    if task == "single_label":
        if (wrong := np.flatnonzero(flags.sum(axis=1) != 1)).size:
            raise UserError(f"{_where(wrong, files)}: {int(flags[wrong[0]].sum())} classes, but one is expected")
        return Labels(task, names, flags.argmax(axis=1).astype(np.int32), remarks)
    return Labels(task, names, flags, remarks)


def infer_task(columns: Mapping[str, Sequence[str]]) -> tuple[TaskName, str]:
    """The task that columns of labels are for, and why."""
    if len(columns) > 1:
        if not all(are_flags(cells) for cells in columns.values()):
            return "regression", f"the columns {some(list(columns))} are numbers"
        flags = np.array([[cell.casefold() in TRUE for cell in cells] for cells in columns.values()])
        if (flags.sum(axis=0) == 1).all():
            return "single_label", f"of the columns {some(list(columns))} exactly one is 1 in each row"
        return "multi_label", f"the columns {some(list(columns))} are 0 and 1"
    ((name, cells),) = columns.items()
    values = {cell for cell in cells if cell}
    numbers = [_number(value) for value in values]
    if values and None not in numbers:
        if not all(number.is_integer() for number in numbers if number is not None):
            return "regression", f'column "{name}" has numbers with fractions'
        if len(values) <= MOST_INTEGER_CLASSES or CLASS_LIKE.search(name):
            return "single_label", f'column "{name}" has {len(values)} integers, taken for classes'
        return "regression", f'column "{name}" has {len(values)} integers, taken for numbers'
    if separator := find_separator(name, cells):
        shown = {LISTED: "as lists", " ": 'with " " between them'}.get(separator, f'with "{separator}" between them')
        return "multi_label", f'column "{name}" has several labels in a cell, {shown}'
    return "single_label", f'column "{name}" has one of {len(values):,} texts in each row'


def find_separator(name: str, cells: Sequence[str], *, sure: bool = False) -> str | None:
    """What is between the labels of a cell; None if each is one label.

    Commas and spaces are also in names of classes. Names repeat as a whole, sets of labels share their parts: there are
    fewer different parts than different cells, or, in a column of labels, tags and so on, not more.

    Args:
      name: the column's.
      cells: N texts.
      sure: cells are known to be of several labels.
    """
    values = {cell for cell in cells if cell}
    for separator in SEPARATORS:
        if not any(separator in value.strip(" ") for value in values):
            continue
        parts = {part for value in values for part in _parts(value, separator)}
        if sure or separator in NEVER_IN_NAMES or len(parts) < len(values) + bool(PLURAL.search(name)):
            return separator
    return None


def by_number(names: Sequence[str]) -> list[str]:
    """Class names in order: by number if all are integers, otherwise as texts."""
    if all(re.fullmatch(r"[+-]?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _classes(cells: Sequence[str], class_names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """int32 [N], and the K names."""
    numbers = [_number(value) for value in set(cells)]
    if any("." in cell for cell in cells) and all(n is not None and n.is_integer() for n in numbers):
        cells = [str(int(float(cell))) for cell in cells]  # pandas writes integers so if it ever saw an empty cell
    names = _canonical(sorted(set(cells)), "classes")
    order = list(class_names) if class_names is not None else by_number(sorted(set(names.values())))
    _refuse_unknown(names.values(), order)
    index = {name: i for i, name in enumerate(order)}
    return np.array([index[names[cell]] for cell in cells], np.int32), tuple(order)


def _split_cells(
    cells: Sequence[str], separator: str | None, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float32 [N, K] of 0 and 1, and the K names."""
    rows = [_parts(cell, separator) for cell in cells]
    names = _canonical(sorted({part for row in rows for part in row}), "classes")
    order = list(class_names) if class_names is not None else by_number(sorted(set(names.values())))
    _refuse_unknown(names.values(), order)
    index = {name: i for i, name in enumerate(order)}
    targets = np.zeros((len(cells), len(order)), np.float32)
    for row, parts in enumerate(rows):
        targets[row, [index[names[part]] for part in parts]] = 1
    return targets, tuple(order)


def _parts(cell: str, separator: str | None) -> list[str]:
    return [part.strip() for part in (cell.split(separator) if separator else [cell]) if part.strip()]


def _flags(columns: Mapping[str, Sequence[str]], files: Sequence[str]) -> np.ndarray:
    """float32 [N, K] of 0 and 1."""
    for name, cells in columns.items():
        if not are_flags(cells):
            row = next(i for i, cell in enumerate(cells) if not are_flags([cell]))
            raise UserError(f'{files[row]}: "{cells[row]}" in column "{name}", but 0 or 1 is expected')
    return np.array([[c.casefold() in TRUE for c in cells] for cells in columns.values()], np.float32).T


def _numbers(columns: Mapping[str, Sequence[str]], files: Sequence[str]) -> np.ndarray:
    """float32 [N, K], finite."""
    for name, cells in columns.items():
        for row, cell in enumerate(cells):
            if (number := _number(cell)) is None or not math.isfinite(np.float32(number)):
                raise UserError(f'{files[row]}: "{cell}" in column "{name}" is not a number')
    return np.array([[float(cell) for cell in cells] for cells in columns.values()], np.float32).T


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _filled(name: str, cells: Sequence[str], files: Sequence[str]) -> Sequence[str]:
    empty = [row for row, cell in enumerate(cells) if not cell.strip()]
    if empty:
        raise UserError(f'{_where(empty, files)}: column "{name}" has no label; one is expected')
    return cells


def _where(rows: Sequence[int] | np.ndarray, files: Sequence[str]) -> str:
    return some([files[row] for row in rows])


def _canonical(names: Sequence[str] | Mapping[str, object], what: str) -> dict[str, str]:
    """From each name as it is written to that of the class: composed characters, no space around it.

    Raises:
      UserError: names differ in nothing but case or the space around them.
    """
    composed = {name: unicodedata.normalize("NFC", name) for name in names}
    seen: dict[str, str] = {}
    for name in composed.values():
        other = seen.setdefault(name.strip().casefold(), name)
        if other != name:
            raise UserError(f'the {what} "{other}" and "{name}" differ only in case or spaces; give them one name')
    return {name: to.strip() for name, to in composed.items()}


def _refuse_unknown(names: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(f"classes {some(unknown)} are not among the {len(known)} that the table says it has")
