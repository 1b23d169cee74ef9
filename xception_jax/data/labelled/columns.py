"""Tables of images as columns of texts, from CSV, TSV, Parquet and JSON Lines files."""

import contextlib
import csv
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from xception_jax.errors import UserError, needs, reason, some, suggest

# A column's cells, by its name; "" is for none. Several values of one cell of a Parquet file have LISTED between them,
# and LISTED alone is an empty list.
Table = dict[str, list[str]]
LISTED = "\x1f"
SPLIT = "split"  # the column of splits that files or folders have by their names
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".pq")
LONGEST_CELL = 2**30  # characters; Python's own limit is 131,072
TRUE, FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The names of a table's columns. None: found by the usual names; "": there is none.

    Attributes:
      file: the images' files.
      label: the class, or classes with a separator between them, or a number; or several columns, of 0 and 1 for each
        class, or of numbers.
      split: train, validation or test.
      group: what images belong to that have to be in one split, a patient, say.
      weight: of the image in the loss.
    """

    file: str | None = None
    label: str | tuple[str, ...] | None = None
    split: str | None = None
    group: str | None = None
    weight: str | None = None


def columns_from(settings: Mapping[str, Any]) -> Columns | None:
    """The columns of `config.data.columns`; None if nothing is set. Several labels have commas between them.

    Raises:
      UserError: there is no such setting.
    """
    if all(name is None for name in settings.values()):
        return None
    roles = [field.name for field in dataclasses.fields(Columns)]
    for name in settings:
        if name not in roles:
            raise UserError(f'config.data.columns has no "{name}"; {suggest(name, roles)}')
    columns = Columns(**settings)
    if columns.label and "," in columns.label:
        return dataclasses.replace(columns, label=tuple(name.strip() for name in settings["label"].split(",")))
    return columns


# What people call them; the first that a table has is taken, whatever its case.
USUAL = {
    "file": (
        *("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_file", "image_path"),
        *("image_id", "img", "picture", "photo"),
    ),
    "label": ("label", "labels", "class", "classes", "class_name", "category", "categories", "target", "tags", "tag"),
    "split": ("split", "subset", "partition", "set"),
    "group": (
        *("group", "groups", "group_id", "patient", "patient_id", "patientid", "subject", "subject_id"),
        *("slide", "slide_id", "case_id"),
    ),
    "weight": ("weight", "sample_weight"),
}


class Found(NamedTuple):
    """The columns of one table; "" where there is none."""

    file: str
    label: tuple[str, ...]
    split: str
    group: str
    weight: str

    def __str__(self) -> str:
        roles = {**self._asdict(), "label": some(self.label)}
        return ", ".join(f'{role} from "{name}"' for role, name in roles.items() if name)


def read_table(path: Path) -> Table:
    """All columns of a table, as texts; an empty cell is "".

    Raises:
      UserError: the file is not a table, is damaged, or has 0 rows.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".parquet", ".pq"):
        table = _read_parquet(path)
    elif suffix == ".jsonl":
        table = _read_json_lines(path)
    else:
        raise UserError(f"{path} is not a table of images: expected a folder, or a file .csv, .tsv, .jsonl or .parquet")
    if not table or not next(iter(table.values())):
        raise UserError(f"{path} has 0 rows")
    return table


@contextlib.contextmanager
def _opened(path: Path, newline: str) -> Iterator[TextIO]:
    try:
        with path.open(newline=newline, encoding="utf-8-sig") as f:
            yield f
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason} at byte {e.start}); save it in UTF-8") from None


def _read_csv(path: Path, delimiter: str) -> Table:
    csv.field_size_limit(LONGEST_CELL)
    try:
        with _opened(path, newline="") as f:
            first = f.readline()
            if delimiter not in first and ";" in first:  # as spreadsheets write it where the comma is in numbers
                delimiter = ";"
            f.seek(0)
            reader = csv.reader(f, delimiter=delimiter, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next(reader, [])]
            rows = []
            for row in reader:
                if row and len(row) != len(names):
                    raise UserError(f"{path}, line {reader.line_num}: {len(row)} values for {len(names)} columns")
                rows += [row] if row else []
    except csv.Error as e:
        raise UserError(f"{path} is damaged: {e}") from None
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f'{path} has two columns "{twice[0]}"')
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _read_parquet(path: Path) -> Table:
    with needs("train", f"the table {path.name}"):
        import pyarrow
        import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        texts = [f.name for f in schema if not (pyarrow.types.is_struct(f.type) or pyarrow.types.is_binary(f.type))]
        table = pyarrow.parquet.read_table(path, columns=texts)  # without images, which some have in them
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{path} is damaged: {reason(e)}") from None
    return {name: [_text(cell) for cell in table.column(name).to_pylist()] for name in table.column_names}


def _read_json_lines(path: Path) -> Table:
    rows = []
    with _opened(path, newline="\n") as lines:  # texts may have the other characters that end lines in them
        for number, line in enumerate(lines, 1):
            try:
                rows += [dict(json.loads(line))] if line.strip() else []
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {number} is not a JSON object: {line.strip()[:40]}") from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_text(row.get(name)) for row in rows] for name in names}


def _text(cell: object) -> str:
    if isinstance(cell, list):
        return LISTED.join(map(_text, cell)) or LISTED
    return "" if cell is None else str(cell)


def find_columns(table: Table, wanted: Columns, where: str, coded: Collection[str] = ()) -> Found:
    """Which column is what.

    Args:
      table: all columns.
      wanted: the names that are given.
      where: the table's name, for messages.
      coded: columns whose classes are known.

    Raises:
      UserError: a column is not there, or the file's or the label's cannot be told from the names.
    """
    labels = (wanted.label,) if isinstance(wanted.label, str) else wanted.label or ()
    given = {**dataclasses.asdict(wanted), "label": None}
    for name in given.values():
        if name and name not in table:
            raise UserError(f'{where} has no column "{name}"; {suggest(name, table)}')
    _check_labels(labels, given, table, where)
    rest = [name for name in table if name not in labels and name not in given.values()]

    def usual(role: str) -> str:
        name = _usual(role, rest)
        rest.remove(name) if name else None
        return name

    file = usual("file") if given["file"] is None else given["file"]
    if not file:
        raise UserError(
            f"{where}: which column has the files? It has: {', '.join(table)}. Give --config.data.columns.file=COLUMN"
        )
    others = {role: usual(role) if given[role] is None else given[role] for role in ("split", "group", "weight")}
    return Found(file, labels or _label_columns(table, usual("label"), rest, where, coded), **others)


def _check_labels(labels: Sequence[str], given: Mapping[str, str | None], table: Table, where: str) -> None:
    """Refuses columns of labels that are not there, or are of something else.

    Args:
      labels: their names.
      given: of the other columns, by what they are; None: to be found.
      table, where: as for `find_columns`.
    """
    file = given["file"] or _usual("file", table)
    others = [name for name in table if name not in (file, *given.values())]
    for name in labels:
        if name not in table:
            raise UserError(f'{where} has no column "{name}"; {suggest(name, others or table)}')
        if name in given.values() or (name == file and not _usual("file", others)):
            role = next((role for role, column in given.items() if column == name and role != "file"), "images")
            raise UserError(
                f'{where}: column "{name}" has the {role}, and cannot have the labels, too; '
                f"for --config.data.columns.label, {suggest(name, others or table)}"
            )


def _usual(role: str, names: Iterable[str]) -> str:
    """The first of the usual names that is among the columns, as it is written there; "" if none is."""
    by_case = {name.casefold(): name for name in reversed(list(names))}
    return next((by_case[usual] for usual in USUAL[role] if usual in by_case), "")


def _label_columns(
    table: Table, usual: str, rest: Sequence[str], where: str, coded: Collection[str]
) -> tuple[str, ...]:
    """The columns of labels: of a usual name, the only one with known classes, the only one of a name like the usual,
    the only one left, or all that are left of 0 and 1.
    """
    rest = [name for name in rest if name and not name.startswith("Unnamed:")]  # pandas' row numbers
    alike = [name for name in rest if "label" in name.casefold() or "class" in name.casefold()]
    if usual:
        return (usual,)
    for few in ([name for name in rest if name in coded], alike, rest):
        if len(few) == 1:
            return tuple(few)
    if len(rest) > 1 and all(are_flags(table[name]) for name in rest):
        return tuple(rest)
    there = f"It has: {', '.join(table)}" if rest else f"Besides {', '.join(table)} it has none"
    raise UserError(f"{where}: which column has the labels? {there}. Give --config.data.columns.label=COLUMN")


def has_usual_label(table: Table) -> bool:
    """Whether a column has one of the usual names of labels."""
    return any(name.casefold() in USUAL["label"] for name in table)


def are_flags(cells: Sequence[str]) -> bool:
    """Whether a column is of 0 and 1, or of false and true."""
    return {cell.casefold() for cell in cells} <= {*TRUE, *FALSE}
