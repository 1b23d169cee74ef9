"""Tasks: what a network is to tell of an image, and all that follows from it.

Data, training, evaluation, comparison and reports ask the task; nothing else depends on which one it is.

Shape legend: B batch, K classes, or numbers to predict.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xception_jax.errors import UserError, some, suggest
from xception_jax.models.head import Scores
from xception_jax.tasks.precision import average_precision_at
from xception_jax.terminal.words import significant

TaskName = Literal["single_label", "multi_label", "regression"]


class Figure(NamedTuple):
    """A figure of a split.

    Attributes:
      title: for people.
      lowest: whether the lowest is the best.
      share: whether it is said in %.
    """

    title: str
    lowest: bool = False
    share: bool = True

    def said(self, value: float) -> str:
        """A value, for people."""
        return f"{100 * value:.2f} % {self.title}" if self.share else f"{significant(value)} {self.title}"


FIGURES = {
    "loss": Figure("loss", lowest=True, share=False),
    "top1": Figure("top-1"),
    "top5": Figure("top-5"),
    "map_at_100": Figure("MAP@100"),
    "weighted_map_at_100": Figure("weighted MAP@100"),
    "precision_at_1": Figure("precision@1"),
    "macro_average_precision": Figure("macro AP"),
    "micro_average_precision": Figure("micro AP"),
    "macro_roc_auc": Figure("macro ROC AUC"),
    "macro_f1": Figure("macro F1"),
    "micro_f1": Figure("micro F1"),
    "r2": Figure("R²", share=False),
    "mae": Figure("MAE", lowest=True, share=False),
    "rmse": Figure("RMSE", lowest=True, share=False),
    "pearson": Figure("Pearson r", share=False),
    "spearman": Figure("Spearman", share=False),
}


def in_words(metrics: Mapping[str, Any]) -> str:
    """A split's figures, for people, without their intervals and the calibration error."""
    shown = [name for name, value in metrics.items() if isinstance(value, float) and name != "ece"]
    titles = {name: FIGURES[name].title if name in FIGURES else name for name in shown}
    return ", ".join(f"{titles[name]} {significant(metrics[name])}" for name in shown)


def lowest_is_best(name: str) -> bool:
    """Whether the lowest of a figure is the best; of one's own metrics it is the highest."""
    return name in FIGURES and FIGURES[name].lowest


class Task:
    """What a network is to tell.

    Attributes:
      name: in configs and files.
      means: what an image has, for people.
      scores: what the logits mean.
      loss: its usual loss, by name.
      losses: those of the built-in losses that are for it.
      of_batches: names of what training shows of each batch, besides the loss.
      figures: names of what is measured of a split, besides the loss; the first chooses the best checkpoint.
      shown: of these, what curves show.
      panel: the title of these curves.
      loss_unit: for people.
      fewest: K at least.
    """

    name: ClassVar[TaskName]
    means: ClassVar[str]
    scores: ClassVar[Scores]
    loss: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    of_batches: ClassVar[tuple[str, ...]]
    figures: ClassVar[tuple[str, ...]]
    shown: ClassVar[tuple[str, ...]]
    panel: ClassVar[str]
    loss_unit: ClassVar[str] = "nats"
    fewest: ClassVar[int] = 1
    dtype: ClassVar[type] = np.float32  # of a label

    def __repr__(self) -> str:
        return self.name

    def shape(self, k: int) -> tuple[int, ...]:
        """Of a label."""
        return (k,)

    def array(self, label: Any) -> Any:
        """A label as it is in a batch."""
        return np.asarray(label, self.dtype)

    def blank(self, k: int) -> Any:
        """A label of padding."""
        return self.array(np.zeros(self.shape(k)))

    def matched(self, theirs: Sequence[str], ours: Sequence[str]) -> Callable[[Any], Any]:
        """From a label in terms of classes `theirs` to the one in terms of `ours`, by their names.

        The function raises UserError, with the end of a sentence, for what is no label.

        Raises:
          UserError: as the end of a sentence, which names there are and which there should be.
        """
        raise NotImplementedError

    def words(self, label: Any, names: Sequence[str]) -> str:
        """A label for people."""
        raise NotImplementedError

    def training_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        """`of_batches`, by name: float32 scalars."""
        raise NotImplementedError

    def outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        """What evaluation keeps of the logits [B, K], by the name of the column."""
        return {"logits": logits.astype(jnp.float32)}

    def check_loss(self, name: str) -> None:
        """Raises UserError if a built-in loss is for another task."""
        fitting = [task.name for task in TASKS.values() if name in task.losses]
        if fitting and self.name not in fitting:
            raise UserError(
                f'config.loss is "{name}", which is for {" and ".join(fitting)}, but the task is {self.name}: an image '
                f"has {self.means}. Leave config.loss at None, or set it to {' or '.join(self.losses)}"
            )


class SingleLabel(Task):
    """One class of several; labels are int32, 0..K-1, or, mixed of several images, float32 [K] whose sum is 1."""

    name = "single_label"
    means = "one class of several"
    scores = "softmax"
    loss = "cross_entropy"
    losses = ("cross_entropy", "binary_cross_entropy")
    of_batches = ("top1",)
    figures = ("top1", "top5")
    shown = ("top1", "top5")
    panel = "accuracy"
    fewest = 2
    dtype = np.int32

    def shape(self, k: int) -> tuple[int, ...]:
        del k
        return ()

    def array(self, label: Any) -> Any:
        return np.int32(label)

    def matched(self, theirs: Sequence[str], ours: Sequence[str]) -> Callable[[Any], Any]:
        labels = range(len(ours)) if tuple(theirs) == tuple(ours) else positions(theirs, ours)

        def match(label: Any) -> int:
            if np.ndim(label) or np.asarray(label).dtype.kind not in "iub":
                raise UserError(f"has label {label!r}, but labels are integers from 0 to {len(labels) - 1}")
            if not 0 <= label < len(labels):
                raise UserError(
                    f"has label {label}, but labels are 0 to {len(labels) - 1}; splits without labels cannot be used: "
                    "choose another by config.data.train_split, .validation_split or .test_split "
                    "(test_split=validation, say)"
                )
            return labels[label]

        return match

    def words(self, label: Any, names: Sequence[str]) -> str:
        return names[int(label if np.ndim(label) == 0 else np.argmax(label))]

    def training_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        classes = labels if labels.ndim == 1 else jnp.argmax(labels, -1)
        return {"top1": jnp.mean(jnp.argmax(logits, -1) == classes, dtype=jnp.float32)}

    def outputs(self, logits: jax.Array) -> dict[str, jax.Array]:
        _, top5 = jax.lax.top_k(logits, min(5, logits.shape[-1]))
        return {"confidence": jax.nn.softmax(logits).max(-1), "top5": top5}


class MultiLabel(Task):
    """Any number of classes; labels are float32 [K], 1 or 0, or NaN if nobody knows whether the image has the class."""

    name = "multi_label"
    means = "any number of classes"
    scores = "sigmoid"
    loss = "binary_cross_entropy"
    losses = ("binary_cross_entropy",)
    of_batches = ("map_at_100",)
    figures = (
        *("map_at_100", "weighted_map_at_100", "precision_at_1"),
        *("macro_average_precision", "micro_average_precision", "macro_roc_auc", "macro_f1", "micro_f1"),
    )
    shown = ("map_at_100", "macro_average_precision")
    panel = "mean average precision"
    loss_unit = "nats per label"

    def matched(self, theirs: Sequence[str], ours: Sequence[str]) -> Callable[[Any], Any]:
        """A class that the other data does not have is one that no image of it has."""
        column = slice(None) if tuple(theirs) == tuple(ours) else positions(theirs, ours)

        def match(label: Any) -> np.ndarray:
            if np.shape(label) != (len(theirs),) or not (np.isin(label, (0, 1)) | np.isnan(label)).all():
                raise UserError(f"has labels {label}, but {len(theirs)} are needed, each 1, 0, or NaN if it is unknown")
            row = np.zeros(len(ours), np.float32)
            row[column] = label
            return row

        return match

    def words(self, label: Any, names: Sequence[str]) -> str:
        return ";".join(name for name, value in zip(names, label, strict=True) if value > 0)

    def training_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        precisions = average_precision_at(logits, labels)
        return {"map_at_100": jnp.nan_to_num(jnp.nanmean(precisions))}  # of a batch without any label it is 0


class Regression(Task):
    """Numbers; labels are float32 [K]."""

    name = "regression"
    means = "numbers"
    scores = "linear"
    loss = "squared_error"
    losses = ("squared_error",)
    of_batches = ("mae",)
    figures = ("r2", "mae", "rmse", "pearson", "spearman")
    shown = ("r2", "pearson")
    panel = "R², correlation"
    loss_unit = "squared error"

    def matched(self, theirs: Sequence[str], ours: Sequence[str]) -> Callable[[Any], Any]:
        if missing := [name for name in ours if name not in theirs]:
            raise UserError(f"does not have the numbers {some(missing)} of this run; it has {some(theirs)}")
        column = [list(theirs).index(name) for name in ours]

        def match(label: Any) -> np.ndarray:
            if np.shape(label) != (len(theirs),) or not np.isfinite(label).all():
                raise UserError(f"has label {label}, but {len(theirs)} finite numbers are needed")
            return np.asarray(label, np.float32)[column]

        return match

    def words(self, label: Any, names: Sequence[str]) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, label, strict=True))

    def training_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        return {"mae": jnp.mean(jnp.abs(logits - labels), dtype=jnp.float32)}


SINGLE_LABEL, MULTI_LABEL, REGRESSION = SingleLabel(), MultiLabel(), Regression()
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
# The meaning of the logits of a network for a task.
SCORES: dict[TaskName, Scores] = {task.name: task.scores for task in TASKS.values()}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
      UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f'unknown config.task "{name}"; {suggest(name, TASKS)}')
    return TASKS[name]


def task_of(source: Any) -> Task:
    """The task that a data set's labels are for: that of its attribute `task`, or one class of several."""
    return TASKS[getattr(source, "task", SINGLE_LABEL.name)]


def positions(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """Where each name is among a run's; one that is there twice cannot be told.

    Raises:
      UserError: as the end of a sentence, which are not there.
    """
    counts = collections.Counter(among)
    known = {name: i for i, name in enumerate(among) if counts[name] == 1}
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"has classes that this run does not know by name: {some(unknown)}; the run has {some(among)}. Rename "
            "the classes of the data, or classify the images without labels: xception-jax predict --weights=RUN FOLDER"
        )
    return [known[name] for name in names]
