"""Labelled images, one object for all of them.

Shape legend: N images, K classes, or numbers to predict.
"""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.data.labelled.labels import Labels
from xception_jax.data.sources.folder import ALIASES
from xception_jax.errors import UserError, some, suggest
from xception_jax.tasks.task import TaskName

SPLITS = ("train", "validation", "test")
# A split's names, in lower case, to its name.
SPLIT_NAMES = {alias: split for split in SPLITS for alias in (split, *ALIASES[split])}


def our_split(name: str) -> str | None:
    """Our name of a data set's split; None if it is none of ours.

    The hub's conversion of a data set that is too large for it has splits "partial-train" and so on.
    """
    return SPLIT_NAMES.get(name.casefold().removeprefix("partial-"))


def our_splits(names: Iterable[str], of: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """From a data set's names of splits to ours, and a remark on those that are none of ours and are passed over.

    They are "" if there is only one, which is to be split.

    Args:
      names: of the splits.
      of: the data set's name, for messages.

    Raises:
      UserError: the only one of ours is to be measured on, and the others cannot be told.
    """
    names = sorted(set(names))
    known = {name: ours for name in names if (ours := our_split(name))}
    others = [name for name in names if known and name not in known]
    if len(there := set(known.values())) < 2:
        if others and there != {"train"}:
            raise UserError(
                f"{of} has the splits {some(names)}, of which only {some(list(known))} is known, but not which to "
                "train on; give the files of one split, or name them train, validation and test"
            )
        known = dict.fromkeys(known or names, "")
    return known, (f"Splits passed over: {some(others)}.",) if others else ()


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled images.

    Attributes:
      root: the folder that files are relative to, absolute.
      files: N names, with "/"; absolute if a table has them outside of `root`.
      task: what there is to predict.
      class_names: K names; of the numbers, if the task is regression.
      targets: single_label: int32 [N], the classes' positions; multi_label: float32 [N, K] of 0 and 1; regression:
        float32 [N, K].
      split: str [N], "train", "validation" or "test".
      group: str [N]; images of one group, a patient, say, are in one split. None: there are no groups.
      weight: float32 [N], of each image in training; None: all have the same.
      remarks: what was inferred, made or passed over, a sentence each.
    """

    root: Path
    files: tuple[str, ...]
    task: TaskName
    class_names: tuple[str, ...]
    targets: np.ndarray
    split: np.ndarray
    group: np.ndarray | None = None
    weight: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    def rows(self, split: str) -> np.ndarray:
        """The positions of a split's images, int64, in order; empty if there is no such split."""
        return np.flatnonzero(self.split == split)

    def only(self, split: str) -> "Labelled":
        """The images of a split alone."""
        rows = self.rows(split)
        of_images = {name: getattr(self, name) for name in ("targets", "split", "group", "weight")}
        kept: dict[str, Any] = {name: None if values is None else values[rows] for name, values in of_images.items()}
        return dataclasses.replace(self, files=tuple(self.files[i] for i in rows), **kept)

    def labels(self) -> np.ndarray:
        """Which classes each image has, bool [N, K]; regression: none, [N, 0]."""
        if self.task == "regression":
            return np.zeros((len(self.files), 0), bool)
        if self.task == "multi_label":
            return self.targets > 0
        return np.eye(len(self.class_names), dtype=bool)[self.targets]

    def paths(self) -> list[Path]:
        """The files' paths."""
        return [self.root / file for file in self.files]


class LabelledSource:
    """Labelled images as a data set: an encoded image, and its class or float32 [K].

    Args:
      labelled: all images.
      rows: the positions of those in the data set.
    """

    def __init__(self, labelled: Labelled, rows: np.ndarray):
        self._labelled, self._rows = labelled, rows
        self.class_names, self.task, self.remarks = labelled.class_names, labelled.task, labelled.remarks
        self.weights = None if labelled.weight is None else labelled.weight[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[bytes, Any]:
        row = self._rows[index]
        target = self._labelled.targets[row]
        image = (self._labelled.root / self._labelled.files[row]).read_bytes()
        return image, int(target) if self._labelled.task == "single_label" else target

    def example_id(self, index: int) -> str:
        """The file's name, as in the table."""
        return self._labelled.files[self._rows[index]]

    def fingerprint(self) -> str:
        """A hash of the files' names, targets and weights."""
        names = "\n".join(self._labelled.files[row] for row in self._rows)
        weights = b"" if self.weights is None else self.weights.tobytes()
        return hashlib.sha256(names.encode() + self._labelled.targets[self._rows].tobytes() + weights).hexdigest()


def split_source(labelled: Labelled, split: str) -> LabelledSource:
    """One split of labelled images as a data set; weights of images are for training alone.

    Raises:
      UserError: the split has no images.
    """
    rows = labelled.rows(split)
    if not len(rows):
        there = [name for name in SPLITS if len(labelled.rows(name))]
        raise UserError(f'{labelled.root} has no split "{split}"; {suggest(split, there)}')
    return LabelledSource(labelled if split == "train" else dataclasses.replace(labelled, weight=None), rows)


def from_labels(
    root: Path,
    files: Sequence[str],
    labels: Labels,
    *,
    split: Sequence[str],
    group: Sequence[str] | None = None,
    weight: Sequence[float] | None = None,
    remarks: Sequence[str] = (),
) -> Labelled:
    """Labelled images of what a folder or a table says, a text or number for each file."""
    return Labelled(
        root,
        tuple(files),
        labels.task,
        labels.class_names,
        labels.targets,
        np.array(split, "<U10"),
        None if group is None else np.array(group),
        None if weight is None else np.array(weight, np.float32),
        (*remarks, *labels.remarks),
    )


def check_classes(data: Labelled, class_names: Sequence[str]) -> Labelled:
    """The images with the classes of a checkpoint, in its order: classes are the same if their names are.

    Args:
      data: whose classes may be some of the checkpoint's.
      class_names: the checkpoint's.

    Raises:
      UserError: the checkpoint does not have a class, or, of numbers, all the same names.
    """
    names = [unicodedata.normalize("NFC", name) for name in class_names]
    if unknown := [name for name in data.class_names if name not in names]:
        raise UserError(
            f"the checkpoint does not have {len(unknown):,} of the {len(data.class_names):,} classes of the data: "
            f"{some(unknown)}; classes go by their names: {suggest(unknown[0], names)}"
        )
    absent = [name for name in names if name not in data.class_names]
    if absent and data.task == "regression":
        raise UserError(f"the checkpoint predicts {some(absent)}, which the data do not have")
    remark = (f"No image is of {len(absent):,} of the checkpoint's {len(names):,} classes: {some(absent)}.",)
    return dataclasses.replace(reordered(data, names), remarks=(*data.remarks, *(remark if absent else ())))


def reordered(data: Labelled, names: Sequence[str]) -> Labelled:
    """With other classes: those of the same name are the same; no image may be of a class that is left out.

    Of several labels, images lose those that are left out.
    """
    if data.task == "single_label":
        position = {name: i for i, name in enumerate(names)}
        targets = np.array([position.get(name, -1) for name in data.class_names], np.int32)[data.targets]
    else:
        targets = np.zeros((len(data.files), len(names)), np.float32)
        for k, name in enumerate(names):
            if name in data.class_names:
                targets[:, k] = data.targets[:, data.class_names.index(name)]
    return dataclasses.replace(data, class_names=tuple(names), targets=targets)
