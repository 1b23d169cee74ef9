"""Figures of images that count several times or not at all, of many such weightings at once: for the bootstrap.

With weights of 1 they are scikit-learn's, which takes one weighting at a time: a thousand resamples of a hundred
classes' curves would take it an hour. Undefined figures are NaN.

Shape legend: N images, K classes, R weightings.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse


class Counts(NamedTuple):
    """Weights of the images of each class, [K, R]: that are of it, predicted as it, and both."""

    positive: np.ndarray
    answered: np.ndarray
    correct: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        return ratio(self.correct, self.answered)

    @property
    def recall(self) -> np.ndarray:
        return ratio(self.correct, self.positive)

    @property
    def f1(self) -> np.ndarray:
        return ratio(2 * self.correct, self.positive + self.answered)

    def total(self) -> "Counts":
        """All classes taken together, [1, R]: for micro averages."""
        return Counts(*(part.sum(axis=0, keepdims=True) for part in self))


class Counter:
    """Args: targets, predicted: bool [N, K]. Called with weights [N, R]."""

    def __init__(self, targets: np.ndarray, predicted: np.ndarray):
        parts = (targets, predicted, targets & predicted)
        self._parts = [sparse.csr_array(part.T, dtype=np.float32) for part in parts]

    def __call__(self, weights: np.ndarray) -> Counts:
        return Counts(*(part @ weights for part in self._parts))


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [..., R] of values [..., N] by weights [N, R]."""
    return values.astype(weights.dtype) @ weights / weights.sum(axis=0)


def mean_of_known(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [R] of the values [N] that are finite; NaN if none is."""
    known = np.isfinite(values)
    return ratio(values[known] @ weights[known], weights[known].sum(axis=0))


def mean_of_classes(figures: np.ndarray, counts: Counts) -> np.ndarray:
    """Means [R] of figures [K, R] over the classes that have images; NaN if there is none with the figure."""
    valid = (counts.positive > 0) & np.isfinite(figures)
    return ratio(np.where(valid, figures, 0).sum(axis=0), valid.sum(axis=0))


class Ranking:
    """Area under the ROC curve (ties count half) and average precision (the sum of precision times step of recall).

    Args:
      scores: [M], of any pairs of image and class.
      positive: bool [M].
      rows: int [M], the pair's image, 0..N-1; None: of images 0..N-1.
      images: N; None: M.
    """

    def __init__(
        self, scores: np.ndarray, positive: np.ndarray, rows: np.ndarray | None = None, images: int | None = None
    ):
        n = len(scores) if images is None else images
        order = np.argsort(-scores, kind="stable")
        scores, positive = scores[order], positive[order]
        rows = order if rows is None else rows[order]
        # Segments of the order: the pairs tied at a score that a positive has, and those between such scores.
        steps = np.unique(-scores[positive])
        bounds = np.stack([np.searchsorted(-scores, steps, side) for side in ("left", "right")], axis=1)
        self._everything = _segments(rows, [0, *bounds.ravel(), len(scores)], n)
        hits = np.searchsorted(np.flatnonzero(positive), bounds[:, 0])
        self._hits = _segments(rows[positive], [*hits, positive.sum()], n)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Args: weights [N, R]. Returns: both, [R]; NaN without positives, the area also without negatives."""
        everything, hits = self._everything @ weights, self._hits @ weights
        above, tied = everything[:-1:2], everything[1::2]  # before each step, at it; the last segment is after all
        total, found = np.cumsum(above + tied, axis=0), np.cumsum(hits, axis=0)
        positives = hits.sum(axis=0)
        negatives = everything.sum(axis=0) - positives
        # Of each positive: the negatives ranked below it, and half of those beside it.
        missed = negatives - (total - found) + (tied - hits) / 2
        area = ratio((hits * missed).sum(axis=0), positives * negatives)
        precision = ratio((hits * (found / np.maximum(total, 1))).sum(axis=0), positives)
        return area, precision


def _segments(rows: np.ndarray, bounds: list[int], n: int) -> sparse.csr_array:
    """The matrix [S, N] of sums of rows between neighbours of S + 1 bounds."""
    return sparse.csr_array((np.ones(len(rows), np.float32), rows, bounds), (len(bounds) - 1, n))


def pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation [R] of values float64 [N]; NaN if either is constant."""
    a, b = (x - x[0] for x in (a, b))  # what is constant is 0, whatever rounding does to its mean
    a, b = (x - x.mean() for x in (a, b))
    of_a, of_b, of_aa, of_bb, of_ab = mean(np.stack((a, b, a * a, b * b, a * b)), weights)
    return ratio(of_ab - of_a * of_b, np.sqrt(np.maximum(0, (of_aa - of_a**2) * (of_bb - of_b**2))))


def spearman(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation [R] of the ranks of values [N], of which ties have their mean; NaN if either is constant."""
    a, b = (_centred_ranks(x, weights) for x in (a, b))
    of_aa, of_bb, of_ab = (np.einsum("nr,nr,nr->r", weights, x, y) for x, y in ((a, a), (b, b), (a, b)))
    return ratio(of_ab, np.sqrt(of_aa * of_bb))


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    _, level = np.unique(values, return_inverse=True)
    at = sparse.csr_array((np.ones(len(values), weights.dtype), (level, np.arange(len(values))))) @ weights
    return (np.cumsum(at, axis=0) - at / 2 - weights.sum(axis=0) / 2)[level]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
