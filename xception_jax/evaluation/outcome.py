"""A network's scores for the labelled images of a split.

Shape legend: N images, K classes or, in regression, target values of an image.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import special

from xception_jax.errors import UserError
from xception_jax.tasks.task import TaskName

THRESHOLD = 0.5  # of a score, from which an image has a label
MOST_SCORES = 100  # classes; the tables of more have the predicted class's score alone
BETWEEN = ";"  # labels of an image


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A network's scores for the labelled images of a split.

    Attributes:
      split: its name.
      files: N names.
      task: one class of several, any number of them, or numbers.
      class_names: K names; in regression, of the target values.
      targets: single_label int [N], 0..K-1; multi_label [N, K], 0 or 1, or NaN: it is unknown whether the image has the
        class, and the pair is left out of all figures; regression float [N, K].
      logits: float [N, K], before temperature and softmax or sigmoid; in regression, the values.
      group: str [N], or None: images of a group (a patient) are not independent.
      deviation: float [N, K], standard deviation of the scores under dropout, or None.
      temperature: divides the logits; 1 if they were not calibrated, and in regression.
      class_weights: [K], of the classes in the weighted MAP@100, or None.

    Raises:
      UserError: a logit or target is not finite, or there is no image.
    """

    split: str
    files: tuple[str, ...]
    task: TaskName
    class_names: tuple[str, ...]
    targets: np.ndarray
    logits: np.ndarray
    group: np.ndarray | None = None
    deviation: np.ndarray | None = None
    temperature: float = 1.0
    class_weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, k = len(self.files), len(self.class_names)
        shapes = {"logits": (n, k), "targets": (n,) if self.task == "single_label" else (n, k)}
        shapes |= {"group": (n,)} if self.group is not None else {}
        shapes |= {"deviation": (n, k)} if self.deviation is not None else {}
        for name, shape in shapes.items():
            assert np.shape(getattr(self, name)) == shape, f"{name}: {np.shape(getattr(self, name))}, not {shape}"
        assert self.temperature > 0, self.temperature
        assert self.temperature == 1 or self.task != "regression", "values have no temperature"
        if not n:
            raise UserError(f'the split "{self.split}" has no image, so that there is nothing to measure')
        self._check_finite("logits", "the network diverged; lower its learning rate")
        if self.task == "regression":
            self._check_finite("targets", "correct them, or leave these images out")
        elif self.task == "multi_label":
            assert (np.isin(self.targets, (0, 1)) | ~self.known).all(), "labels are 0, 1 or NaN"
        else:
            assert k > 1, f"{k} class"
            assert self.targets.min() >= 0, self.targets.min()
            assert self.targets.max() < k, f"label {self.targets.max()} of {k} classes"

    def _check_finite(self, name: str, why: str) -> None:
        rows = np.flatnonzero(~np.isfinite(getattr(self, name)).all(axis=1))
        if len(rows):
            raise UserError(
                f'split "{self.split}": the {name} of {len(rows)} of {len(self.files)} images are not finite '
                f'("{self.files[rows[0]]}"): {why}'
            )

    @property
    def scores(self) -> np.ndarray:
        """Probabilities of the classes, or the values: float64 [N, K]."""
        logits = self.logits.astype(np.float64) / self.temperature
        if self.task == "single_label":
            return special.softmax(logits, axis=1)
        return special.expit(logits) if self.task == "multi_label" else logits

    @property
    def known(self) -> np.ndarray:
        """multi_label: whether it is known if an image has a class, bool [N, K]."""
        return ~np.isnan(self.targets)

    @property
    def losses(self) -> np.ndarray:
        """float64 [N]: cross-entropy in nats (multi_label: the mean of known labels); regression: squared error."""
        logits = self.logits.astype(np.float64) / self.temperature
        if self.task == "single_label":
            return -special.log_softmax(logits, axis=1)[np.arange(len(logits)), self.targets]
        if self.task == "multi_label":
            losses = -special.log_expit(np.where(self.targets == 1, logits, -logits))
            return np.where(self.known, losses, 0).sum(axis=1) / np.maximum(self.known.sum(axis=1), 1)
        return ((logits - self.targets) ** 2).mean(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, int [N]; multi_label: whether a score is at least 0.5, bool [N, K]; the values."""
        if self.task == "single_label":
            return self.logits.argmax(axis=1)
        return self.scores >= THRESHOLD if self.task == "multi_label" else self.scores


def columns(outcome: Outcome) -> dict[str, list[Any]]:
    """Every prediction as columns of a table, which `workdir.tables.write_table` writes.

    file, split, group (if there are groups), target, predicted; of classes also confidence (the highest score, of
    one class of several), "score CLASS" (of at most 100 classes) and deviation. Several labels are joined by ";".
    With several target values or labels, columns are named "target NAME", "predicted NAME" or "deviation NAME".
    """
    names, scores = outcome.class_names, outcome.scores
    table: dict[str, list[Any]] = {"file": list(outcome.files), "split": [outcome.split] * len(outcome.files)}
    if outcome.group is not None:
        table["group"] = [str(group) for group in outcome.group]
    if outcome.task == "regression":
        table |= _each("target", names, outcome.targets) | _each("predicted", names, scores)
    elif outcome.task == "multi_label":
        table |= {"target": _joined(names, outcome.targets == 1), "predicted": _joined(names, outcome.predicted)}
    else:
        table |= {"target": [names[i] for i in outcome.targets], "predicted": [names[i] for i in outcome.predicted]}
        table["confidence"] = scores.max(axis=1).tolist()
    if outcome.task != "regression" and len(names) <= MOST_SCORES:
        table |= {f"score {name}": column.tolist() for name, column in zip(names, scores.T, strict=True)}
    if outcome.deviation is None:
        return table
    if outcome.task == "single_label":
        return table | {"deviation": outcome.deviation[np.arange(len(scores)), outcome.predicted].tolist()}
    return table | _each("deviation", names, outcome.deviation)


def _each(what: str, names: tuple[str, ...], values: np.ndarray) -> dict[str, list[Any]]:
    """A column for each name; its name says which, unless there is one alone."""
    titles = [what] if len(names) == 1 else [f"{what} {name}" for name in names]
    return {title: column.tolist() for title, column in zip(titles, values.T, strict=True)}


def _joined(names: tuple[str, ...], has: np.ndarray) -> list[str]:
    return [BETWEEN.join(names[i] for i in np.flatnonzero(row)) for row in has]
