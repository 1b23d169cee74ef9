"""Predictions as people and programs get them: a table, files of scores and features, heat maps."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from xception_jax.evaluation.conformal import members
from xception_jax.filesystem import atomic, table_files
from xception_jax.inference.grad_cam import overlay
from xception_jax.inference.predictor import Prediction
from xception_jax.pretrained import Pretrained
from xception_jax.terminal import console
from xception_jax.terminal.words import counted, significant

SHOWN = 50  # images in the table that people read
LONGEST_STEM, LONGEST_CLASS = 120, 60  # bytes of a heat map's name: file systems allow 255


def class_name(pretrained: Pretrained, index: int) -> str:
    """The name of a class or number, or its position if the weights do not have names."""
    what = "number" if pretrained.scores == "linear" else "class"
    return pretrained.class_names[index] if pretrained.class_names else f"{what} {index}"


# Of classes: a row for each of an image's highest scores.
COLUMNS = ("file", "rank", "class_index", "class_name", "probability", "uncertainty", "prediction_set")
BETWEEN = ";"  # the classes of a set


def rows_each(pretrained: Pretrained, top: int) -> int:
    """The number of an image's rows: one with all numbers, or one for each of its `top` classes."""
    return 1 if pretrained.scores == "linear" else min(top, pretrained.num_classes)


def columns_of(pretrained: Pretrained) -> tuple[str, ...]:
    """Those of COLUMNS for which the weights have values; of numbers, `file` and the name of each."""
    if pretrained.scores == "linear":
        names = [class_name(pretrained, index) for index in range(pretrained.num_classes)]
        taken = Counter(["file", *names])
        names = [name if taken[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]
        return ("file", *names, *(f"deviation {name}" for name in names if pretrained.uncertainty))
    has = {"uncertainty": pretrained.uncertainty, "prediction_set": pretrained.conformal is not None}
    return tuple(name for name in COLUMNS if has.get(name, True))


def prediction_set(prediction: Prediction, pretrained: Pretrained) -> str:
    """The classes of an image's set, the most probable first; "" if the weights have none."""
    if pretrained.conformal is None:
        return ""
    (belongs,) = members(prediction.scores[None], pretrained.conformal.threshold)
    order = np.argsort(-prediction.scores, kind="stable")
    return BETWEEN.join(class_name(pretrained, index) for index in order if belongs[index])


def append(columns: dict[str, list], prediction: Prediction, pretrained: Pretrained, top: int) -> None:
    """Appends an image's rows to those of `columns_of`: its `top` highest scores, ranks from 1, or its numbers."""
    if pretrained.scores == "linear":
        row = (prediction.file, *prediction.scores.tolist(), *prediction.uncertainty.tolist())
        for column, value in zip(columns.values(), row, strict=False):  # deviations only if there are columns for them
            column.append(value)
        return
    order, classes = np.argsort(-prediction.scores, kind="stable")[:top], prediction_set(prediction, pretrained)
    for rank, index in enumerate(order, 1):
        row = (prediction.file, rank, int(index), class_name(pretrained, index), float(prediction.scores[index]))
        values = dict(zip(COLUMNS, (*row, float(prediction.uncertainty[index]), classes), strict=True))
        for name, column in columns.items():
            column.append(values[name])


def show(columns: dict[str, list], top: int, pretrained: Pretrained) -> None:
    """Prints the first images' classes, one line each, and the sets if the weights have them; or `top` numbers."""
    if pretrained.scores == "linear":
        _show_numbers(columns, top, pretrained)
        return
    top = rows_each(pretrained, top)
    sets = [] if pretrained.conformal is None else [f"set ({100 * (1 - pretrained.conformal.alpha):.4g} %)"]
    table = console.plain_table("file", *[str(rank + 1) for rank in range(top)], *sets)
    names, values = columns["class_name"], columns["probability"]
    said = [f"{name} {100 * value:.1f} %" for name, value in zip(names, values, strict=True)]
    for start in range(0, min(len(said), SHOWN * top), top):
        set_of = [columns["prediction_set"][start].replace(BETWEEN, ", ")] if sets else []
        table.add_row(columns["file"][start], *said[start : start + top], *set_of)
    console.console().print(table)
    if len(said) > SHOWN * top:
        print(f"and {len(said) // top - SHOWN} more; --output=FILE.csv writes all")


def _show_numbers(columns: dict[str, list], top: int, pretrained: Pretrained) -> None:
    """Prints the first images' first `top` numbers, one line each."""
    shown = list(columns)[1 : 1 + min(top, pretrained.num_classes)]
    table = console.plain_table("file", *shown)
    for row, file in enumerate(columns["file"][:SHOWN]):
        table.add_row(file, *(significant(columns[name][row]) for name in shown))
    console.console().print(table)
    left = max(0, len(columns["file"]) - SHOWN), pretrained.num_classes - len(shown)
    more = [counted(count, f"more {what}") for count, what in zip(left, ("image", "number"), strict=True) if count]
    if more:
        print(f"and {', '.join(more)}; --output=FILE.csv writes all")


def write_features(path: Path, names: Sequence[str], features: Sequence[np.ndarray]) -> None:
    """Writes file names and features: .npz has arrays `files` [N] and `features` [N, D], .parquet two columns."""
    if path.suffix == ".parquet":
        table_files.write_table(path, {"file": names, "features": features})
        return
    buffer = io.BytesIO()
    np.savez(buffer, files=np.array(names), features=np.stack(features))
    atomic.write_atomically(path, buffer.getvalue())


def write_explanation(folder: Path, prediction: Prediction, name: str) -> None:
    """Writes an image beside the heat map of its class, as FOLDER/`explanation_name`."""
    picture = cv2.cvtColor(overlay(prediction.view, prediction.evidence), cv2.COLOR_RGB2BGR)
    folder.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    atomic.write_atomically(folder / explanation_name(prediction.file, name), encoded)


def explanation_name(file: str, name: str) -> str:
    """A file's name for the heat map of a class: of any two files, two names, short enough for any file system.

    <file>.<class>.png; if a part of it had to be changed, <part of the path>-<hash of the path>.<class>.png.
    """
    stem = file.replace(os.sep, "_").lstrip("._")
    short = _at_most(stem, LONGEST_STEM)
    if short != file:
        short += f"-{hashlib.sha256(file.encode()).hexdigest()[:10]}"
    return f"{short}.{_at_most(name.replace(os.sep, '_'), LONGEST_CLASS)}.png"


def _at_most(name: str, length: int) -> str:
    """The end of a name in so many bytes."""
    return name.encode()[-length:].decode(errors="ignore")
