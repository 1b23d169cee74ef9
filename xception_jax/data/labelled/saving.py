"""Labelled images as a CSV file that people and programs read, and that is read as the same object again."""

import csv
import dataclasses
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.data.labelled.columns import Table, read_table
from xception_jax.data.labelled.images import Labelled
from xception_jax.data.labelled.labels import SEPARATORS
from xception_jax.errors import UserError, some

ABOUT = "about"  # the column whose first cell has what rows cannot say
ABOUT_KEYS = {"root", "task", "class_names", "columns", "separator", "remarks"}


def to_csv(data: Labelled) -> bytes:
    """A table of the images, which `open_labelled` reads as the same object; UTF-8.

    Columns: file; label or labels, the classes' names, or a column for each number to predict; split; group and weight,
    if there are any; and "about", whose first cell is JSON of what rows cannot say: folder, task, order of the classes,
    remarks.
    """
    separator = next(s for s in SEPARATORS[1:4] + SEPARATORS[:1] if not any(s in name for name in data.class_names))
    taken = list(data.class_names) if data.task == "regression" else []

    def column(name: str) -> str:
        while name in taken:  # numbers may have any name
            name += "_"
        taken.append(name)
        return name

    columns: dict[str, Any] = {"file": column("file"), "split": column("split")}
    table: dict[str, Sequence[str]] = {columns["file"]: data.files}
    if data.task == "regression":
        table |= {name: [str(v) for v in data.targets[:, k]] for k, name in enumerate(data.class_names)}
        columns["label"] = list(data.class_names)
    else:
        columns["label"] = [column("label" if data.task == "single_label" else "labels")]
        table[columns["label"][0]] = [
            separator.join(data.class_names[k] for k in np.flatnonzero(row)) for row in data.labels()
        ]
    table[columns["split"]] = data.split.tolist()
    for role, values in (("group", data.group), ("weight", data.weight)):
        columns[role] = "" if values is None else column(role)
        table |= {} if values is None else {columns[role]: [str(v) for v in values]}
    about = {
        "root": str(data.root),
        "task": data.task,
        "class_names": data.class_names,
        "columns": columns,
        "separator": separator,
        "remarks": data.remarks,
    }
    table[column(ABOUT)] = [json.dumps(about, ensure_ascii=False)] + [""] * (len(data.files) - 1)
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")  # spaces in names stay
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode()


def splits_of(path: Path) -> dict[Path, str]:
    """The split of each file of a saved table; empty if it is another table."""
    table = read_table(path)
    if not (about := read_about(table, path)):
        return {}
    files, splits = (table[about["columns"][role]] for role in ("file", "split"))
    return {Path(about["root"], file): split for file, split in zip(files, splits, strict=True)}


def changes(path: Path, data: Labelled) -> str:
    """How images differ from a saved table of them, in words: the number and an image of each kind; "" if in nothing.

    The folder may have moved, and remarks may have changed.
    """
    table = read_table(path)
    if not (about := read_about(table, path)):
        return f'the first cell of column "{ABOUT}" is missing'
    then = dataclasses.replace(data, root=Path(about["root"]), remarks=tuple(about["remarks"]))
    if path.read_bytes() == (now := to_csv(then)):
        return ""
    rows = list(csv.reader(io.StringIO(now.decode(), newline="")))
    table_now = dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))
    before, after = _by_file(table, about), _by_file(table_now, read_about(table_now, path))
    both = [file for file in after if file in before]
    found = {"new": [file for file in after if file not in before], "gone": [f for f in before if f not in after]}
    found |= {
        f"with another {role}": [file for file in both if before[file][role] != after[file][role]]
        for role in ("label", "split", "group", "weight")
    }
    said = [f"{len(files):,} {what}, such as {some(files[:1])}" for what, files in found.items() if files]
    return f"images that differ: {'; '.join(said)}" if said else "the classes, or images, are in another order"


def _by_file(table: Table, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each file of a saved table, what is said of it; labels by the classes' names."""
    columns, numbers = about["columns"], about["task"] == "regression"
    count = len(next(iter(table.values())))
    cells = defaultdict(lambda: [""] * count, table)  # someone may have taken a column out

    def label(row: int) -> Any:
        values = {name: cells[name][row] for name in columns["label"]}
        return values if numbers else set("".join(values.values()).split(about["separator"]))

    others = {role: columns[role] for role in ("split", "group", "weight")}
    return {
        file: {"label": label(row)} | {role: cells[name][row] for role, name in others.items()}
        for row, file in enumerate(cells[columns["file"]])
    }


def read_about(table: Table, path: Path) -> dict[str, Any]:
    """What a saved table says of itself; empty if it is another table."""
    name = next((name for name in table if name.rstrip("_") == ABOUT), "")
    cells = [cell for cell in table.get(name, ()) if cell]
    if len(cells) != 1 or not cells[0].startswith('{"root"'):
        return {}
    try:
        about = json.loads(cells[0])
    except ValueError:
        about = {}
    if set(about) != ABOUT_KEYS:
        raise UserError(f'{path}: column "{name}" is damaged; without the column, its contents are inferred')
    return about
