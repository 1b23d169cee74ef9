"""Statistics of an evaluation, in float64 on the host: how sure a figure is, and whether two networks differ.

Shape legend: N examples, K classes.
"""

import statistics
from typing import Any, NamedTuple

import numpy as np


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (E. B. Wilson, 1927): right for few examples and for shares near 0 and 1.

    Args:
      successes: 0..n.
      n: examples; without any, the interval is all of 0..1.
      confidence: of covering the true share, above 0 and below 1.

    Returns:
      Lowest and highest share, 0..1.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = _z(confidence) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    # At 0 and n successes the ends are exactly 0 and 1; rounding must not leave the share outside.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """How far confidence is from accuracy (C. Guo et al., 2017, equation 3), 0 (calibrated) to 1.

    The mean of |accuracy - mean confidence| over bins of equal width, (low, high], weighted by their examples.

    Args:
      confidence: [N], probability of the predicted class, 0..1.
      correct: bool [N].
      bins: number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    gaps = np.bincount(index, weights=np.asarray(correct, np.float64) - np.asarray(confidence, np.float64))
    return float(np.abs(gaps).sum() / len(confidence))


class McNemar(NamedTuple):
    """The paired test of two networks on the same examples.

    Attributes:
      only_a, only_b: examples that only one of them got right.
      p_value: probability of so uneven a pair of counts, or a more uneven one, if both networks were equally good.
    """

    only_a: int
    only_b: int
    p_value: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """McNemar's test, exact and two-sided: the examples that just one got right are as many throws of a fair coin.

    Args:
      correct_a, correct_b: bool [N], in the same order of examples.
    """
    from scipy import special

    only_a, only_b = int(np.sum(correct_a & ~correct_b)), int(np.sum(correct_b & ~correct_a))
    p_value = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemar(only_a, only_b, p_value)


def paired_difference_interval(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of (share that B gets right) - (share that A gets right) on the same examples (Bonett and Price, 2012).

    Args:
      only_a, only_b: examples that only one of them got right.
      n: all examples.
      confidence: of covering the true difference.

    Returns:
      Lowest and highest difference, -1..1.
    """
    # One more of each kind keeps the interval near its confidence where few examples differ.
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _z(confidence) * ((a + b - (b - a) ** 2) / (n + 2)) ** 0.5
    return max(-1.0, b - a - half), min(1.0, b - a + half)


def class_results(labels: np.ndarray, predicted: np.ndarray, class_names: list[str]) -> list[dict[str, Any]]:
    """Each class' count, correct, top1 (of its examples) with interval, precision and f1, for JSON.

    A figure that nothing defines is None: top1 without examples, precision of a class that is never predicted.

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
    """How many standard deviations around its mean hold `confidence` of a normal distribution."""
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
