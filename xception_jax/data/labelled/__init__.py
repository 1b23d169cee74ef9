"""Labelled images, from folders of classes, tables of files and data sets by name: read, checked and split."""

from xception_jax.data.labelled.columns import Columns, columns_from
from xception_jax.data.labelled.images import SPLITS, Labelled, LabelledSource, check_classes, split_source
from xception_jax.data.labelled.opening import duplicates, open_labelled
from xception_jax.data.labelled.saving import changes, to_csv

__all__ = [
    "SPLITS",
    "Columns",
    "Labelled",
    "LabelledSource",
    "changes",
    "check_classes",
    "columns_from",
    "duplicates",
    "open_labelled",
    "split_source",
    "to_csv",
]
