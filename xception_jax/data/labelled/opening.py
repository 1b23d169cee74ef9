"""Opens labelled images: reads them, makes the split that is not given, and refuses what contradicts itself."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from xception_jax.data.labelled import hugging_face, tfds_sets
from xception_jax.data.labelled.columns import Columns
from xception_jax.data.labelled.contents import same_contents
from xception_jax.data.labelled.folders import has_classes, read_folder
from xception_jax.data.labelled.images import SPLITS, Labelled
from xception_jax.data.labelled.splitting import ENOUGH, few, make_split, strata_of
from xception_jax.data.labelled.tables import find_metadata, read_files, read_metadata, without_unseen
from xception_jax.data.labelled.unpacking import read_packed
from xception_jax.errors import UserError, some
from xception_jax.filesystem import paths
from xception_jax.tasks.task import TaskName

ALL_TEST = (0, 0, 1)  # fractions with which nothing is trained: what has no split is measured


def open_labelled(
    path: str | Path,
    columns: Columns | None = None,
    *,
    task: TaskName | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    max_missing: int = 100,
    refuse_duplicates: bool = False,
    data_dir: str = "",
) -> Labelled:
    """Labelled images from a folder, a table (`to_csv` saves one), or a data set of Hugging Face or TFDS.

    Args:
      path: a folder class/image or split/class/image; or a CSV, TSV, JSON Lines (.jsonl) or Parquet file, whose file
        names are relative to its folder, or to the folder "images" beside it; or a folder that has such a table,
        metadata.csv, .jsonl or .parquet, in it or in each split, with a column file_name; or a Parquet file, or a
        folder of them, with the images inside; or hf:OWNER/NAME, with /FOLDER and @REVISION, or tfds:NAME, with
        /CONFIG and :VERSION.
      columns: of the table; None: found by their usual names.
      task: None: inferred.
      seed: of the split, if there is none.
      fractions: of train, validation and test; with (0, 0, 1) nothing is to be trained: images without a split are
        all in test, and splits that are given may lack what training needs.
      max_missing: how many of the table's files may be missing; they are left out.
      refuse_duplicates: images of the same contents in two splits are an error, not only a remark.
      data_dir: of TFDS, the folder of prepared data sets; "" is its own.

    Raises:
      UserError: the data contradict themselves, or cannot be understood; the message says where and what to do.
    """
    trained = tuple(fractions) != ALL_TEST
    found = _read(str(path), columns, task, max_missing, data_dir)
    if trained and found.task == "multi_label" and len(rows := found.rows("train")):
        found = without_unseen(found, rows, "no image to train on has them")
    same = same_contents(found.paths())
    found = _with_split(found, same, fractions, seed)
    _check_group(found)
    return _checked(found, same, refuse_duplicates, trained=trained)


def _read(name: str, columns: Columns | None, task: TaskName | None, max_missing: int, data_dir: str) -> Labelled:
    """The images as they are given; the split is "" if there is none."""
    if name.startswith(tfds_sets.PREFIX):
        return read_packed(tfds_sets.find_packed(name, data_dir), columns, task)
    is_hub = name.startswith(hugging_face.PREFIX)
    path = hugging_face.download(name) if is_hub else paths.expanded(name).absolute()
    if not path.exists():
        raise UserError(
            f"there is no folder or table {path}; data sets by name are hf:OWNER/NAME (Hugging Face) and tfds:NAME"
        )
    if packed := hugging_face.find_packed(path, name if is_hub else str(path), columns):
        return read_packed(packed, columns, task)
    if path.is_file():
        return read_files(path, columns, task, max_missing)
    tables, remarks = find_metadata(path, has_classes=columns is None and has_classes(path))
    if tables:
        return read_metadata(path, tables, columns, task, max_missing)
    if columns is not None:
        raise UserError(f"{path} is a folder, which has no columns; give the path of the table in it")
    found = read_folder(path, task)
    return dataclasses.replace(found, remarks=(*found.remarks, *remarks))


def _with_split(data: Labelled, same: np.ndarray, fractions: tuple[float, float, float], seed: int) -> Labelled:
    """With a split if there is none, and with a validation split from train if there are only train and test."""
    there = set(data.split.tolist())
    if tuple(fractions) == ALL_TEST:
        return data if there != {""} else _all_test(data)
    if there == {"train", "test"}:
        rows, made = data.rows("train"), "No validation split was given: a part of train is taken"
        share = fractions[1] / (fractions[0] + fractions[1]) if fractions[0] else 0.0
        fractions = (1 - share, share, 0.0)
    elif there == {""}:
        rows, made = np.arange(len(data.files)), "No split was given: one is made"
    else:
        return data
    stratum, labels = strata_of(data.task, data.targets[rows]), data.labels()[rows]
    units = np.unique(same[rows] if data.group is None else data.group[rows], return_inverse=True)[1]
    split = data.split.copy()
    split[rows] = make_split(
        stratum,
        np.eye(int(stratum.max()) + 1, dtype=bool)[stratum] if data.task == "regression" else labels,
        units,
        uneven=data.group is not None,
        fractions=fractions,
        seed=seed,
    )
    by = {"single_label": "the class", "multi_label": "an image's rarest label", "regression": "the first number"}
    apart = "" if data.group is None else ", groups undivided"
    counts = Counter(split.tolist())
    sizes = ", ".join(f"{counts[name]:,} {name}" for name in SPLITS)
    remark = f"{made}, with seed {seed}, in proportion by {by[data.task]}{apart}: {sizes}."
    remarks = [*data.remarks, remark]
    rare = [data.class_names[k] for k in np.unique(stratum[few(stratum, units)]) if k < labels.shape[1]]
    if rare and max(fractions) < 1:
        what = "images" if data.group is None else "groups"
        remarks.append(f"Classes with less than {ENOUGH} {what}, which are all in train: {some(rare)} ({len(rare):,}).")
    return dataclasses.replace(data, split=split, remarks=tuple(remarks))


def _all_test(data: Labelled) -> Labelled:
    remark = "No split is given: all images are measured."
    return dataclasses.replace(data, split=np.full(len(data.files), "test", "<U10"), remarks=(*data.remarks, remark))


def _check_group(data: Labelled) -> None:
    """Refuses a group that is in two splits."""
    if data.group is None:
        return
    sides: dict[str, set[str]] = {}
    for group, split in zip(data.group.tolist(), data.split.tolist(), strict=True):
        sides.setdefault(group, set()).add(split)
    if divided := [group for group, splits in sides.items() if len(splits) > 1]:
        splits = " and ".join(name for name in SPLITS if name in sides[divided[0]])
        raise UserError(
            f"there are groups in two splits, {some(divided)} (the first in {splits}), which would be tested with what "
            "was learnt of them. Move each to one, or give --config.data.columns.split= to have a split made"
        )


def _checked(data: Labelled, same: np.ndarray, refuse_duplicates: bool, *, trained: bool) -> Labelled:
    """With remarks on what a split lacks, and on equal images in two splits; or refused.

    If nothing is to be trained, no split has to be there, and train may be without some classes.
    """
    labels, remarks = data.labels(), list(data.remarks)
    if data.task == "single_label" and len(data.class_names) < 2:
        raise UserError(f'all images in {data.root} are of the class "{data.class_names[0]}"; at least 2 are needed')
    for split in SPLITS if trained else SPLITS[1:]:
        if not len(data.rows(split)):
            remarks += [f"There is no {split} split."] * trained
            continue
        if trained and split != "test" and data.weight is not None and not data.weight[data.rows(split)].any():
            raise UserError(f"all images of {split} in {data.root} have the weight 0; nothing could be learnt of them")
        lacks = labels.any(axis=0) & ~labels[data.rows(split)].any(axis=0)
        lacking = [data.class_names[k] for k in np.flatnonzero(lacks)]
        if lacking and split == "train" and data.task == "single_label":
            raise UserError(
                f"train has no image of {some(lacking)}, which other splits have; it could not be learnt: "
                "move some of its images to train, or leave the class out"
            )
        if lacking:
            remarks.append(
                f"{split} has no image of {len(lacking):,} of the {labels.shape[1]:,} classes: {some(lacking)}."
            )
    pairs = _between_splits(data, same)
    if pairs:
        named = [f"{data.files[a]} ({data.split[a]}) = {data.files[b]} ({data.split[b]})" for a, b in pairs]
        text = f"{len(pairs):,} images are also in another split, byte for byte: {some(named)}"
        if refuse_duplicates:
            raise UserError(f"{text}; remove them from one")
        remarks.append(f"{text}.")
    return dataclasses.replace(data, remarks=tuple(dict.fromkeys(remarks)))


def duplicates(data: Labelled) -> list[tuple[int, int]]:
    """The rows of images with the same contents as the first such image, which is in another split: (first, row)."""
    return _between_splits(data, same_contents(data.paths()))


def _between_splits(data: Labelled, same: np.ndarray) -> list[tuple[int, int]]:
    return [(int(a), b) for b, a in enumerate(same) if data.split[a] != data.split[b]]
