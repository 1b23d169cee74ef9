"""Prediction sets with a guaranteed coverage, for one class of several (split conformal prediction, least ambiguous
sets; M. Sadinle, J. Lei and L. Wasserman, arXiv 1609.00451).

The guarantee: of new images that are exchangeable with those of the calibration, the set of at least a share of
1 - alpha, on average over calibrations, contains the true class.

Shape legend: N images, K classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xception_jax.evaluation.outcome import Outcome
from xception_jax.evaluation.statistics import wilson_interval


def threshold(scores: np.ndarray, targets: np.ndarray, alpha: float) -> float:
    """The score from which a class belongs to the set.

    It is the k-th highest score of a true class, k = ceil((N + 1) (1 - alpha)); 0, so that sets have all classes, if
    there are too few images for that.

    Args:
      scores: of the images of the calibration, float [N, K].
      targets: their classes, int [N].
      alpha: the share of sets that may lack the true class, above 0 and below 1.
    """
    of_true = np.sort(scores[np.arange(len(targets)), targets])[::-1]
    k = math.ceil(round((len(of_true) + 1) * (1 - alpha), 9))  # 10 * (1 - 0.9) is not below 1
    return float(of_true[k - 1]) if k <= len(of_true) else 0.0


def members(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each class belongs to the set of each image, bool [N, K]: from the threshold on, and always the first."""
    return (scores >= threshold) | (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])


def measure(outcome: Outcome, threshold: float) -> dict[str, Any]:
    """How many sets contain the true class, and how large they are, for JSON.

    Args:
      outcome: of images that did not choose the threshold, of one class of several.
      threshold: of the scores.
    """
    sets = members(outcome.scores, threshold)
    covered, count = int(sets[np.arange(len(sets)), outcome.targets].sum()), len(sets)
    return {
        "count": count,
        "coverage": covered / count,
        "interval": wilson_interval(covered, count),
        "mean_size": float(sets.sum(axis=1).mean()),
    }


def said(record: Mapping[str, Any], split: str = "test") -> str:
    """Sets and their coverage in words.

    Args:
      record: threshold, alpha, and `measure` of a split by the split's name, or None.
      split: the name.
    """
    meant = f"classes from a score of {record['threshold']:.4g} on; intended coverage {1 - record['alpha']:.4g}"
    if (test := record[split]) is None:
        return f"{meant}; not measured, as there is no {split} split"
    low, high = test["interval"]
    return f"{meant}; on {split} {test['coverage']:.4f} ({low:.4f} to {high:.4f}), {test['mean_size']:.2f} classes each"
