"""TFDS data sets as labelled images."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.data.labelled.columns import LISTED, SPLIT
from xception_jax.data.labelled.images import our_splits
from xception_jax.data.labelled.labels import Classes
from xception_jax.data.labelled.unpacking import Packed, Row, file_name
from xception_jax.data.sources import tfds, tfds_labels
from xception_jax.errors import UserError

PREFIX = "tfds:"

Cell = Callable[[Mapping[str, Any]], str]  # of a record


def find_packed(name: str, data_dir: str) -> Packed:
    """A TFDS data set, tfds:NAME[/CONFIG][:VERSION].

    Args:
      name: as the user gave it.
      data_dir: folder of the prepared data sets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: there is no such data set, or it is not prepared.
    """
    of_tfds = name.removeprefix(PREFIX)
    builder = tfds.find_builder(of_tfds, data_dir)
    features, image = builder.info.features, tfds.find_image(builder.info.features, of_tfds)
    columns = {key: _column(features, of_tfds, key) for key in features if key != image}
    classes = {key: found for key, (_, found) in columns.items() if found}
    splits, remarks = our_splits(builder.info.splits, name)
    usual = tfds_labels.USUAL.get(of_tfds.partition("/")[0].partition(":")[0])

    def rows() -> Iterator[Row]:
        for split, ours in splits.items():
            for i, record in enumerate(tfds.records(builder, split, image)):
                cells = {key: read(record) for key, (read, _) in columns.items() if read}
                row = file_name(split, i, tfds.name_of(record))
                yield Row(row, record[image], {**cells, SPLIT: ours} if ours else cells)

    count = sum(builder.info.splits[split].num_examples for split in splits)
    root = Path(builder.data_dir)
    files = sorted(root.glob("*.array_record*"))
    return Packed(name, root, files, count, image, classes, rows, usual if usual in classes else None, remarks)


def _column(features: Mapping[str, Any], name: str, key: str) -> tuple[Cell | None, Classes | None]:
    """How a feature is written into a table, if it can be, and its classes, if it has any."""
    try:
        task, names, read = tfds_labels.find_labels(features, name, key, "negative")
    except UserError:
        return (lambda record: _text(record[key])) if features[key].shape == () else None, None
    if task == "regression":
        return lambda record: "" if np.isnan(record[key]) else str(record[key]), None
    names = tuple(unicodedata.normalize("NFC", each).strip() for each in names)
    if task == "single_label":
        return lambda record: names[read(record)] if read(record) >= 0 else "", Classes(task, names)
    return lambda record: LISTED.join(names[k] for k in np.flatnonzero(read(record) == 1)) or LISTED, Classes(
        task, names
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
