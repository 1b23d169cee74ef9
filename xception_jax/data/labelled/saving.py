"""Labelled images as a CSV file that people and programs read, and that is read as the same object again."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.data.labelled.columns import Table, read_table
from xception_jax.data.labelled.images import Labelled
from xception_jax.data.labelled.labels import SEPARATORS
from xception_jax.errors import UserError

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


def files_if_changed(path: Path, data: Labelled) -> list[str] | None:
    """The files of a saved table, if it says anything else of the images than `data` does, and None otherwise.

    The folder may have moved, and remarks may have changed.
    """
    table = read_table(path)
    about = read_about(table, path)
    if about:
        then = dataclasses.replace(data, root=Path(about["root"]), remarks=tuple(about["remarks"]))
        if path.read_bytes() == to_csv(then):
            return None
    return table[about["columns"]["file"] if about else next(iter(table))]


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
