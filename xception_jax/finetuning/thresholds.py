"""Thresholds of uncertainty, above which an image, and then a group of images, is left out (BISCUIT; J. M. Dolezal et
al., 2022, arXiv 2204.04516): found on the validation split, applied to the test split.

Shape legend: N images, K classes.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from xception_jax.evaluation.outcome import Outcome
from xception_jax.evaluation.statistics import wilson_interval

FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What is at most this uncertain is kept; infinite if nothing was wrong where they were found.

    Attributes:
      image: of an image's deviation.
      group: of the mean deviation of a group's kept images; None without groups.
    """

    image: float
    group: float | None


def youden(uncertainty: np.ndarray, correct: np.ndarray) -> float:
    """The threshold that best tells wrong from right: the largest share of wrong above it minus that of right.

    Args:
      uncertainty: float [n].
      correct: bool [n].
    """
    if correct.all() or not correct.any():
        return math.inf
    values = np.unique(uncertainty)
    shares = [np.searchsorted(np.sort(uncertainty[part]), values, "right") / part.sum() for part in (correct, ~correct)]
    return float(values[np.argmax(shares[0] - shares[1])])


def find(outcome: Outcome, seed: int = 0) -> Thresholds:
    """The means of thresholds, each found without a fifth of the images, or of the groups.

    Args:
      outcome: of the validation split, of one class of several, with deviations.
      seed: of the division.
    """
    units = np.arange(len(outcome.files)) if outcome.group is None else np.unique(outcome.group, return_inverse=True)[1]
    count = int(units.max()) + 1
    fold = np.random.default_rng(seed).permutation(count) % min(FOLDS, count)
    found = [_once(outcome, fold[units] != left_out) for left_out in range(int(fold.max()) + 1)]
    finite = [[t for t in column if t is not None and math.isfinite(t)] for column in zip(*found, strict=True)]
    image, group = (float(np.mean(column)) if column else math.inf for column in finite)
    return Thresholds(image, None if outcome.group is None else group)


def _once(outcome: Outcome, rows: np.ndarray) -> tuple[float, float | None]:
    """The thresholds of some images."""
    uncertainty, correct = deviation(outcome), outcome.predicted == outcome.targets
    image = youden(uncertainty[rows], correct[rows])
    if outcome.group is None:
        return image, None
    groups = of_groups(outcome, rows & (uncertainty <= image))
    return image, youden(groups["deviation"], groups["correct"]) if len(groups["deviation"]) else math.inf


def deviation(outcome: Outcome) -> np.ndarray:
    """Each image's deviation of the predicted class's score: float [N]."""
    assert outcome.deviation is not None, "the network has no dropout at inference"
    return outcome.deviation[np.arange(len(outcome.files)), outcome.predicted]


def of_groups(outcome: Outcome, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of each group with images among `rows`, by the mean scores of these: whether it is correct, and its deviation.

    Groups whose images are of several classes count as of the first image's.
    """
    assert outcome.group is not None
    names, units = np.unique(outcome.group[rows], return_inverse=True)
    counts = np.bincount(units, minlength=len(names))
    scores = np.stack(
        [np.bincount(units, column, len(names)) / counts for column in outcome.scores[rows].T], axis=1
    ) if len(names) else np.zeros((0, len(outcome.class_names)))  # fmt: skip
    _, first = np.unique(units, return_index=True)
    return {
        "correct": scores.argmax(1) == outcome.targets[rows][first],
        "deviation": np.bincount(units, deviation(outcome)[rows], len(names)) / counts,
    }


def apply(outcome: Outcome, thresholds: Thresholds) -> dict[str, Any]:
    """What thresholds leave of a split: of images, and of groups if there are any, all, kept, and their accuracies."""
    correct, kept = outcome.predicted == outcome.targets, deviation(outcome) <= thresholds.image
    result = {"images": _shares(correct, kept)}
    if outcome.group is not None and thresholds.group is not None:
        everything = of_groups(outcome, np.ones(len(kept), bool))
        groups = of_groups(outcome, kept)
        left = groups["deviation"] <= thresholds.group
        result["groups"] = _shares(everything["correct"], None) | _kept(groups["correct"][left])
    return result


def _shares(correct: np.ndarray, kept: np.ndarray | None) -> dict[str, Any]:
    count = len(correct)
    everything = {"count": count, "accuracy": float(correct.mean()), "interval": _interval(correct)}
    return everything | ({} if kept is None else _kept(correct[kept]))


def _kept(correct: np.ndarray) -> dict[str, Any]:
    accuracy = float(correct.mean()) if len(correct) else None
    return {"kept": len(correct), "kept_accuracy": accuracy, "kept_interval": _interval(correct)}


def _interval(correct: np.ndarray) -> tuple[float, float]:
    return wilson_interval(int(correct.sum()), len(correct))
