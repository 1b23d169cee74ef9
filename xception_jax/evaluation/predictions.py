"""A network's predictions for each example of a split, as certificates keep them.

Shape legend: N examples, K classes, or numbers to predict.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from xception_jax.evaluation import analysis, statistics
from xception_jax.evaluation.outcome import Outcome
from xception_jax.tasks.task import MULTI_LABEL, SINGLE_LABEL, TASKS, Task


class PerExample(abc.ABC):
    """What predictions for any task have.

    Attributes:
      ids: N unique names.
      labels: as the task has them, [N] or [N, K].
      loss: float32 [N], without label smoothing.
      own: float32 [N] each, the run's own metrics by name.
      task: what was predicted.
    """

    ids: list[str]
    labels: np.ndarray
    loss: np.ndarray
    own: dict[str, np.ndarray]
    task: Task

    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """The figures of the split: those of the task, loss, and the run's own metrics; NaN where undefined."""

    @abc.abstractmethod
    def report(self, split: str, class_names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The part of a certificate that is of the figures, and its figures of each class."""

    def means(self) -> dict[str, float]:
        """Means of the loss and of the run's own metrics."""
        return {name: float(np.mean(x, dtype=np.float64)) for name, x in {"loss": self.loss, **self.own}.items()}

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays to keep; `from_columns` is the inverse."""
        others = {name: x for name, x in vars(self).items() if name not in ("own", "task") and x is not None}
        return others | {"ids": np.array(self.ids, dtype=np.str_)}

    def _check_lengths(self, *columns: np.ndarray) -> None:
        lengths = {len(self.ids)} | {len(x) for x in (self.labels, self.loss, *columns, *self.own.values())}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"

    @abc.abstractmethod
    def rows(self, order: np.ndarray) -> Self:
        """Those of some examples, int [n], without the run's own metrics."""


@dataclasses.dataclass
class Predictions(PerExample):
    """Predictions of one class of several.

    Attributes:
      labels: int32 [N], 0..K-1.
      top5: int32 [N, min(5, K)], the most probable classes in descending order.
      confidence: float32 [N], softmax probability of the most probable class, 0..1.
      loss: float32 [N], cross-entropy in nats without label smoothing, or the run's own loss.
    """

    ids: list[str]
    labels: np.ndarray
    top5: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    own: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task = SINGLE_LABEL
        self._check_lengths(self.top5, self.confidence)

    @property
    def correct(self) -> np.ndarray:
        """Whether the most probable class is the correct one: bool [N]."""
        return self.top5[:, 0] == self.labels

    @property
    def correct_top5(self) -> np.ndarray:
        """Whether the correct class is among the five most probable: bool [N]."""
        return (self.top5 == self.labels[:, None]).any(axis=1)

    def metrics(self) -> dict[str, float]:
        """The means: top1, top5, loss and the run's own metrics."""
        right = {"top1": self.correct, "top5": self.correct_top5}
        return {name: float(np.mean(x, dtype=np.float64)) for name, x in right.items()} | self.means()

    def report(self, split: str, class_names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Wilson's intervals of accuracy, and the calibration error."""
        count = len(self.ids)
        figures = {
            **self.metrics(),
            "top1_interval": statistics.wilson_interval(int(self.correct.sum()), count),
            "top5_interval": statistics.wilson_interval(int(self.correct_top5.sum()), count),
            "ece": statistics.expected_calibration_error(self.confidence, self.correct),
        }
        return {"metrics": figures}, statistics.class_results(self.labels, self.top5[:, 0], class_names)

    def rows(self, order: np.ndarray) -> Self:
        """Those of some examples."""
        ids = [self.ids[i] for i in order]
        return type(self)(ids, self.labels[order], self.top5[order], self.confidence[order], self.loss[order])


@dataclasses.dataclass
class Scored(PerExample):
    """Predictions of several labels, or of numbers.

    Attributes:
      labels: float32 [N, K]; of several labels 1, 0, or NaN if it is unknown.
      logits: float32 [N, K]; the numbers, in regression.
      loss: float32 [N].
      class_weights: float [K], of the classes in the weighted MAP@100, or None.
    """

    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    loss: np.ndarray
    own: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    class_weights: np.ndarray | None = None
    task: Task = MULTI_LABEL

    def __post_init__(self) -> None:
        self._check_lengths(self.logits)

    def outcome(self, split: str = "", class_names: list[str] | None = None) -> Outcome:
        """The same as an `Outcome`, which has the figures."""
        names = tuple(class_names or map(str, range(self.logits.shape[1])))
        return Outcome(
            split,
            tuple(self.ids),
            self.task.name,
            names,
            self.labels,
            self.logits,
            class_weights=self.class_weights,
        )

    def metrics(self) -> dict[str, float]:
        """The figures of the task, and the means of the loss and of the run's own metrics."""
        figures = analysis.figures_of(self.outcome())
        return {name: figures[name] for name in self.task.figures if name in figures} | self.means()

    def report(self, split: str, class_names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The figures with their intervals of resampled images, and how these were made."""
        found = analysis.analyse(self.outcome(split, class_names))
        figures: dict[str, Any] = {}
        for name, figure in found["figures"].items():
            figures |= {name: figure["value"], f"{name}_interval": figure["interval"]}
        rest = {name: found[name] for name in ("interval", "baseline", "remarks")}
        return {"task": self.task.name, "metrics": figures | self.means(), **rest}, found["per_class"]

    def rows(self, order: np.ndarray) -> Self:
        """Those of some examples."""
        ids = [self.ids[i] for i in order]
        labels, logits, loss = self.labels[order], self.logits[order], self.loss[order]
        return type(self)(ids, labels, logits, loss, class_weights=self.class_weights, task=self.task)


def from_columns(task: str, columns: Mapping[str, Any], own: dict[str, np.ndarray]) -> PerExample:
    """Predictions of a task from their arrays by name."""
    given: dict[str, Any] = {**columns, "ids": np.asarray(columns["ids"]).tolist(), "own": own}
    if TASKS[task] is SINGLE_LABEL:
        return Predictions(**given)
    given["task"] = TASKS[task]
    return Scored(**given)
