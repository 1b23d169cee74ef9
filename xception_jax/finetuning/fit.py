"""Fits a head to the features of labelled images.

Shape legend: N examples, D features, K outputs.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from xception_jax.data.labelled import Labelled
from xception_jax.errors import UserError
from xception_jax.finetuning import deep, heads, linear
from xception_jax.finetuning.fitting import Examples, Trial, best
from xception_jax.finetuning.scale import Scale
from xception_jax.models.head import parse
from xception_jax.models.variables import Weights


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of labelled images.

    Attributes:
      rows: of `Labelled`, those that could be read, int [N], ascending.
      values: float32 [N, D].
    """

    rows: np.ndarray
    values: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the given rows that could be read, and their features."""
        kept = rows[np.isin(rows, self.rows)]
        return kept, self.values[np.searchsorted(self.rows, kept)]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted head.

    Attributes:
      weights: its arrays.
      trials: the regularizations tried.
    """

    weights: Weights
    trials: list[Trial]

    @property
    def chosen(self) -> Trial:
        """The trial whose head was taken."""
        return best(self.trials)


def fit(
    labelled: Labelled,
    features: Features,
    *,
    head: str = "",
    seed: int = 0,
    report: Callable[[Trial], None] = lambda trial: None,
) -> Fitted:
    """Fits a head on the training split; the validation split chooses its regularization.

    Args:
      labelled: the images.
      features: theirs.
      head: layers before the outputs, as in `models.head`; none: a linear head.
      seed: of what is random in a head with hidden layers.
      report: called after each regularization that was tried.

    Raises:
      UserError: the head is not understood, or no image of a split could be read.
    """
    layers = heads.after_pool(head)
    scale = Scale.of(labelled)
    scaled = scale(labelled)
    train, validation = (examples(scaled, features, split) for split in ("train", "validation"))
    if any(step.kind == "dense" for step in parse(layers)):
        trials = deep.fit(labelled.task, layers, train, validation, report, seed=seed)
    else:
        trials = linear.fit(labelled.task, train, validation, report)
    return Fitted(scale.undone(best(trials).head), trials)


def examples(labelled: Labelled, features: Features, split: str) -> Examples:
    """A split's readable images, to fit or to choose on."""
    rows, values = features.of(labelled.rows(split))
    if not len(rows):
        raise UserError(f'no image of the split "{split}" could be read')
    targets = labelled.targets[rows]
    weights = np.ones(len(rows), np.float32) if labelled.weight is None else labelled.weight[rows]
    return Examples(values, targets, (weights / weights.mean()).astype(np.float32), len(labelled.class_names))


def balanced(labelled: Labelled) -> Labelled:
    """Images weighted so that the classes of the training split count alike, beside the weights they have.

    Raises:
      UserError: an image does not have one class, but several or a number.
    """
    if labelled.task != "single_label":
        raise UserError("config.finetune.balance is for one class per image; give weights in a column of the table")
    train, weight = labelled.rows("train"), 1.0 if labelled.weight is None else labelled.weight
    own = np.broadcast_to(np.float64(weight), labelled.targets.shape)
    sums = np.bincount(labelled.targets[train], own[train], minlength=len(labelled.class_names))
    shares = own / np.where(sums > 0, sums, 1)[labelled.targets]
    return dataclasses.replace(labelled, weight=shares.astype(np.float32))
