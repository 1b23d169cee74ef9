"""What the labels of a TFDS data set are: one class, several with what is known of each, or a number.

Shape legend: K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xception_jax.errors import UserError, suggest
from xception_jax.tasks.task import TaskName

# The feature with the labels, of data sets that have several.
USUAL = {
    "coco": "objects",
    "imagenet2012_multilabel": "correct_multi_labels",
    "imagenet2012_real": "real_label",
    "open_images_v4": "objects_trainable",
    "voc": "labels",
}
# Of a feature with labels, those with labels that are known to be wrong, and that are neither.
BESIDE = {"correct_multi_labels": ("wrong_multi_labels", "unclear_multi_labels")}
CERTAIN = 10  # the confidence of a label that a person verified; 0 is a verified negative
ABSENT = {"negative": 0.0, "unknown": np.nan}

Record = Mapping[str, Any]


class Labels(NamedTuple):
    """How the labels of records are read.

    Attributes:
      task: what they are for.
      class_names: K names.
      read: from a record to its label, as `Source` has it.
    """

    task: TaskName
    class_names: tuple[str, ...]
    read: Callable[[Record], Any]


def find_labels(features: Mapping[str, Any], name: str, label: str, absent: str) -> Labels:
    """The labels of a data set.

    Args:
      features: of the builder, by name.
      name: of the data set, for messages.
      label: the feature with the labels; "": found.
      absent: of several labels, what those are that a record does not list: "negative" or "unknown".

    Raises:
      UserError: there is no such feature, it cannot be told, or it has no labels.
    """
    import tensorflow_datasets as tfds

    if absent not in ABSENT:
        raise UserError(f'config.data.absent is "{absent}"; it must be one of {", ".join(ABSENT)}')
    if label and label not in features:
        raise UserError(f'data set "{name}" has no feature "{label}" (config.data.label); {suggest(label, features)}')
    label = label or _found(features, name)
    feature = features[label]
    if isinstance(feature, tfds.features.ClassLabel):
        return Labels("single_label", tuple(feature.names), lambda record: int(record[label]))
    if classes := _classes(feature):
        return Labels("multi_label", tuple(classes.names), Several(label, len(classes.names), ABSENT[absent]))
    if isinstance(feature, tfds.features.Tensor) and feature.shape == () and np.issubdtype(feature.np_dtype, np.number):
        return Labels("regression", (label,), lambda record: np.array([record[label]], np.float32))
    raise UserError(f'feature "{label}" of data set "{name}" is neither classes nor a number; choose another')


class Several:
    """Reads several labels: float32 [K], 1, 0, or NaN if it is unknown.

    A label with a confidence (Open Images: 0 to 10) is known if a person has verified it: at 10 it is there, at 0 not.
    """

    def __init__(self, label: str, num_classes: int, absent: float):
        self._label, self._k, self._absent = label, num_classes, absent

    def __call__(self, record: Record) -> np.ndarray:
        row = np.full(self._k, self._absent, np.float32)
        listed: Any = record[self._label]
        wrong: Any
        unclear: Any
        wrong, unclear = [record[name] for name in BESIDE[self._label]] if self._label in BESIDE else ((), ())
        if isinstance(listed, Mapping):
            labels = np.asarray(listed["label"], np.int64)
            confidence = np.asarray(listed.get("confidence", np.full(len(labels), CERTAIN)))
            wrong, unclear = labels[confidence == 0], labels[(confidence > 0) & (confidence < CERTAIN)]
            listed = labels[confidence >= CERTAIN]
        for labels, value in ((wrong, 0), (unclear, np.nan), (listed, 1)):  # of what is listed twice, the last holds
            row[np.asarray(labels, np.int64)] = value
        return row


def _found(features: Mapping[str, Any], name: str) -> str:
    """The feature with the labels."""
    import tensorflow_datasets as tfds

    if (usual := USUAL.get(name.split("/")[0].split(":")[0])) in features:
        return str(usual)
    single = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    several = [key for key, feature in features.items() if _classes(feature)]
    if "label" in single:
        return "label"
    for found in (single, several):
        if len(found) == 1:
            return found[0]
    there = f"; choose one by config.data.label: {', '.join(single + several)}" if single or several else ""
    raise UserError(
        f'data set "{name}" is not for image classification: it has {len(single)} class labels and {len(several)} '
        f"lists of them per example, but exactly one is needed{there}"
    )


def _classes(feature: Any) -> Any:
    """The ClassLabel of a feature that is a list of classes, or of objects with one, or None."""
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Sequence):
        return None
    inner = feature.feature
    if isinstance(inner, tfds.features.FeaturesDict):
        inner = dict(inner).get("label")
    return inner if isinstance(inner, tfds.features.ClassLabel) else None
