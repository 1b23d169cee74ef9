"""Labelled images in tables of their files."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xception_jax.data.files import ENDINGS
from xception_jax.data.labelled.columns import (
    SPLIT,
    Columns,
    Table,
    are_flags,
    find_columns,
    has_usual_label,
    read_table,
)
from xception_jax.data.labelled.images import SPLIT_NAMES, Labelled, from_labels, our_splits, reordered
from xception_jax.data.labelled.labels import Classes, infer_task, read_labels
from xception_jax.data.labelled.saving import read_about
from xception_jax.data.sources.folder import subfolders
from xception_jax.errors import UserError, some, suggest
from xception_jax.tasks.task import TaskName

FILE_NAME = "file_name"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
IMAGES = "images"  # the folder beside a table that its file names may be in


def read_files(
    path: Path,
    columns: Columns | None,
    task: TaskName | None,
    max_missing: int,
    classes: Mapping[str, Classes] | None = None,
    table: Table | None = None,
    name: str = "",
    split_of: str = "",
) -> Labelled:
    """The images of a table; the split is "" if it has none.

    Args:
      path: of the table.
      columns, task, max_missing: as for `open_labelled`.
      classes: of columns of labels whose classes are known, if others than the user made the table: then an empty
        cell is no label in any task, as an empty list is not an empty cell.
      table: what is in it; None: it is read.
      name: of the data set, as the user gave it, if it is not the path.
      split_of: what the split is from, if it is not from a column of the user's.
    """
    table = table or read_table(path)
    about = read_about(table, path)
    root = Path(about["root"]) if about and Path(about["root"]).is_dir() else path.parent
    if columns is not None:
        about = {}
    elif about:
        columns = Columns(**about["columns"] | {"label": tuple(about["columns"]["label"])})
    found = find_columns(table, columns or Columns(), name or str(path), classes or ())
    shown = f"{found._replace(split='')}, split from {split_of}" if split_of else str(found)
    remarks = list(about["remarks"]) if about else [f"Columns of {path.name}: {shown}."]
    used = [name for name in (*found.label, found.split, found.group, found.weight) if name]
    rows, files, said = _files(path, root, table[found.file], {name: table[name] for name in used}, max_missing)
    known = (classes or {}).get(found.label[0])
    if about:
        known = Classes(about["task"], about["class_names"], about["separator"])
    if known and not about and task in (None, known.task):
        by_name = f'{len(known.class_names):,} classes by name in column "{found.label[0]}"'
        said.append(f"The task is {known.task}, because the data set has {by_name}.")
    named = table.get(found.split)
    splits = {row: _split_name(named[row], file) if named else "" for row, file in zip(rows, files, strict=True)}
    labels_of = {name: table[name] for name in found.label}
    if classes is not None or _empty_is_no_label(labels_of, task or (known.task if known else None)):
        rows, files, unlabelled = _with_label(rows, files, list(labels_of.values()), splits)
        said += unlabelled
    cells = {name: [table[name][row] for row in rows] for name in used}
    labels = read_labels(
        {name: cells[name] for name in found.label},
        files,
        task=task or (known.task if known else None),
        class_names=known.class_names if known and task in (None, known.task) else None,
        separator=known.separator if known else None,
    )
    group, weight = cells.get(found.group), cells.get(found.weight)
    data = from_labels(
        root,
        files,
        labels,
        split=[splits[row] for row in rows],
        group=_named(found.group, group, files) if group else None,
        weight=list(map(_weight, weight, files)) if weight else None,
        remarks=[*remarks, *said],
    )
    return data if about else without_unseen(data, slice(None), "no image has them")


def find_metadata(folder: Path, *, has_classes: bool) -> tuple[dict[Path, Table], list[str]]:
    """metadata.csv and the like that say what images are, as the library `datasets` reads them, and remarks.

    Args:
      folder: they are in it, or in its folders of splits.
      has_classes: the images are in folders of classes: then only tables that have labels, too, are taken.

    Raises:
      UserError: one cannot be read; where there are folders of classes, this is a remark.
    """
    places = [folder, *(place for place in subfolders(folder) if place.name.casefold() in SPLIT_NAMES)]
    tables: dict[Path, Table] = {}
    remarks = []
    for path in (path for place in places for name in METADATA if (path := place / name).is_file()):
        try:
            table = read_table(path)
        except UserError as e:
            if not has_classes:
                raise
            remarks.append(f"A table is passed over: {e}.")
            continue
        if FILE_NAME in table and (has_usual_label(table) or not has_classes):
            tables[path] = table
    return tables, remarks


def read_metadata(
    folder: Path, tables: Mapping[Path, Table], columns: Columns | None, task: TaskName | None, max_missing: int
) -> Labelled:
    """The images of a folder that has `tables` in it or in its folders of splits.

    Args:
      folder: the images' names are relative to the folder of each table.
      tables: one or more, as of `find_metadata`.
      columns, task, max_missing: as for `open_labelled`.
    """
    splits, _ = our_splits((path.parent.name for path in tables if path.parent != folder), str(folder))
    joined: Table = {name: [] for table in tables.values() for name in table}
    joined |= {SPLIT: []} if any(splits.values()) else {}
    for path, table in tables.items():
        count, inside = len(table[FILE_NAME]), path.parent.relative_to(folder)
        table = {**table, FILE_NAME: [(inside / name).as_posix() for name in table[FILE_NAME]]}
        table |= {SPLIT: [splits[inside.name]] * count} if splits.get(inside.name) else {}
        for name, cells in joined.items():
            cells += table.get(name, [""] * count)
    split_of = "the folders" if any(splits.values()) else ""
    path = folder / next(iter(tables)).name
    return read_files(path, columns, task, max_missing, table=joined, split_of=split_of)


def _files(
    path: Path, root: Path, names: Sequence[str], cells: Table, max_missing: int
) -> tuple[list[int], list[str], list[str]]:
    """The first row of each file that is there, its name from the root, and remarks on the other rows.

    Raises:
      UserError: too many files are missing, or rows of one file differ.
    """
    located = [_locate(root, name) for name in names]
    missing = [name for name, file in zip(names, located, strict=True) if file is None]
    if len(missing) > max_missing or len(missing) == len(located):
        raise UserError(
            f"{len(missing):,} of the {len(located):,} files of {path} are not in {root} nor in {root / IMAGES}: "
            f"{some(missing)}; at most {max_missing} may be missing"
        )
    first: dict[str, int] = {}
    repeated = 0
    for row, file in enumerate(located):
        if file is None or (before := first.setdefault(file, row)) == row:
            continue
        repeated += 1
        for name, column in cells.items():
            if column[before] != column[row]:
                raise UserError(
                    f'{path}: {file} is in two rows with different values of "{name}", "{column[before]}" and '
                    f'"{column[row]}"; keep one of them'
                )
    remarks = [f"Files of the table that are missing and left out: {some(missing)} ({len(missing):,})."] * bool(missing)
    remarks += [f"Rows that repeat another and are left out: {repeated:,}."] * bool(repeated)
    return list(first.values()), list(first), remarks


def _empty_is_no_label(columns: Table, task: TaskName | None) -> bool:
    """Whether an empty cell of a user's table is no label: of several labels, it is none of them."""
    if len(columns) > 1:
        return not all(are_flags([cell for cell in cells if cell]) for cells in columns.values())
    return (task or infer_task(columns)[0]) != "multi_label"


def _with_label(
    rows: Sequence[int], files: Sequence[str], labels: Sequence[Sequence[str]], splits: dict[int, str]
) -> tuple[list[int], list[str], list[str]]:
    """The rows and files of images that have all labels, and a remark on the others.

    If only train is left of `splits`, it is to be split: "".
    """
    kept = [
        (row, file) for row, file in zip(rows, files, strict=True) if all(cells[row].strip(" ") for cells in labels)
    ]
    if not kept:
        raise UserError(f"none of the {len(rows):,} images has a label")
    left = {splits[row] for row, _ in kept}
    if (lost := sorted({*splits.values()} - left)) and left == {"train"}:
        splits |= dict.fromkeys(splits, "")
    rows_kept, files_kept = [row for row, _ in kept], [file for _, file in kept]
    if len(kept) == len(rows):
        return rows_kept, files_kept, []
    there = set(files_kept)
    first = next(file for file in files if file not in there)
    count = f"{len(rows) - len(kept):,}{', all of ' if lost else ''}{some(lost)}"
    return rows_kept, files_kept, [f"Images without a label that are left out: {count}, such as {some([first])}."]


def without_unseen(data: Labelled, rows: np.ndarray | slice, why: str) -> Labelled:
    """Without the classes that none of the images at `rows` has, which is said with `why`."""
    seen = data.labels()[rows].any(axis=0)
    if seen.all():
        return data
    if not seen.any():
        raise UserError(f"no image of the table in {data.root} has a label")
    unseen = [data.class_names[k] for k in np.flatnonzero(~seen)]
    data = reordered(data, [data.class_names[k] for k in np.flatnonzero(seen)])
    remark = f"Left out, because {why}: classes {some(unseen)}."
    return dataclasses.replace(data, remarks=(*data.remarks, remark))


def _locate(root: Path, name: str) -> str | None:
    """The file of a table's name, from the root: there or in "images", with an image's suffix if the name has none."""
    names = dict.fromkeys((name, name.replace("\\", "/"))) if name else ()
    for suffix, folder, written in itertools.product(("", *sorted(ENDINGS)), ("", IMAGES), names):
        path = os.path.normpath(root / folder / (written + suffix))
        if os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file, False for names that cannot be
            return (Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path(path)).as_posix()
    return None


def _split_name(cell: str, file: str) -> str:
    if (split := SPLIT_NAMES.get(cell.strip().casefold())) is None:
        raise UserError(f'{file}: unknown split "{cell}"; {suggest(cell, SPLIT_NAMES)}')
    return split


def _weight(cell: str, file: str) -> float:
    try:
        weight = float(cell)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < np.inf:
        raise UserError(f'{file}: the weight "{cell}" is not a number of 0 or more')
    return weight


def _named(column: str, groups: list[str], files: Sequence[str]) -> list[str]:
    if empty := [file for file, group in zip(files, groups, strict=True) if not group]:
        raise UserError(f'{some(empty)}: column "{column}" is empty; an image that is alone needs a group of its own')
    return groups
