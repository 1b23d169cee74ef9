"""Statistics of an evaluation, in float64 on the host: confidence intervals, calibration, and tests of differences.

Shape legend: N examples, K classes.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927), valid for few examples and near 0 and 1.

    Args:
      successes: 0..n.
      n: number of examples; if 0, the interval is all of 0..1.
      confidence: probability of covering the true proportion, above 0 and below 1.

    Returns:
      Lower and upper bound, 0..1.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = _z(confidence) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    # At 0 and n successes the bounds are exactly 0 and 1; rounding must not exclude the proportion itself.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (C. Guo et al., 2017, equation 3), from 0 (calibrated) to 1.

    The mean of |accuracy - mean confidence| over bins of equal width, (low, high], weighted by number of examples.

    Args:
      confidence: [N], probability of the predicted class, 0..1.
      correct: bool [N].
      bins: number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    gaps = np.bincount(index, weights=np.asarray(correct, np.float64) - np.asarray(confidence, np.float64))
    return float(np.abs(gaps).sum() / len(confidence))


SIGNS = 10_000_000  # drawn together


class McNemar(NamedTuple):
    """The paired test of two networks on the same examples.

    Attributes:
      only_a, only_b: number of examples that only one of them classified correctly.
      p_value: probability of counts at least as uneven as these if both networks are equally good.
    """

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """McNemar's exact two-sided test: under the null hypothesis, each example that only one classified correctly is a
    toss of a fair coin.

    Args:
      correct_a, correct_b: bool [N], in the same order of examples.
    """
    from scipy import special

    only_a, only_b = int(np.sum(correct_a & ~correct_b)), int(np.sum(correct_b & ~correct_a))
    p_value = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemar(only_a, only_b, p_value)


def paired_difference_interval(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of accuracy(B) - accuracy(A) on the same examples (Bonett and Price, 2012).

    Args:
      only_a, only_b: number of examples that only one of them classified correctly.
      n: total number of examples.
      confidence: probability of covering the true difference.

    Returns:
      Lower and upper bound, -1..1.
    """
    # Adding one to each count keeps the coverage close to nominal when few examples differ.
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _z(confidence) * ((a + b - (b - a) ** 2) / (n + 2)) ** 0.5
    return max(-1.0, b - a - half), min(1.0, b - a + half)


def sign_flip_test(differences: np.ndarray, draws: int = 9999, seed: int = 0) -> float:
    """The two-sided p-value of a mean of paired differences (Fisher's randomization test, with random signs).

    If neither of two networks is better, each example's difference could as well have the other sign.

    Args:
      differences: float [N], of the examples.
      draws: number of random assignments of signs; p is at least 1 / (draws + 1).
      seed: of the signs.
    """
    differences = np.asarray(differences, np.float64)
    total, n = abs(differences.sum()), len(differences)
    rng, at_least = np.random.default_rng(seed), 0
    for start in range(0, draws, size := max(1, SIGNS // max(n, 1))):
        signs = rng.integers(0, 2, (min(size, draws - start), n), np.int8)
        sums = np.abs(2 * (signs @ differences) - differences.sum())
        at_least += int((sums >= total * (1 - 1e-9)).sum())  # what is equal in exact arithmetic counts
    return (1 + at_least) / (draws + 1)


def class_results(labels: np.ndarray, predicted: np.ndarray, class_names: list[str]) -> list[dict[str, Any]]:
    """Each class's count, correct, top1 (of its examples) with interval, precision and f1, for JSON.

    Undefined figures are None: top1 without examples, precision of a class that is never predicted.

    Args:
      labels, predicted: int [N], 0..K-1.
      class_names: [K].
    """
    k = len(class_names)
    counts, answers = np.bincount(labels, minlength=k), np.bincount(predicted, minlength=k)
    corrects = np.bincount(labels[labels == predicted], minlength=k)
    return [
        {
            "name": name,
            "count": count,
            "correct": correct,
            "top1": _share(correct, count),
            "top1_interval": wilson_interval(correct, count),
            "precision": _share(correct, answered),
            "f1": _share(2 * correct, count + answered),
        }
        for name, count, correct, answered in zip(
            class_names, counts.tolist(), corrects.tolist(), answers.tolist(), strict=True
        )
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _z(confidence: float) -> float:
    """The number of standard deviations around the mean that contain `confidence` of a normal distribution."""
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for their number (S. Holm, 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return corrected.tolist()
