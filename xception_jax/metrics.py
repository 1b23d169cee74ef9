"""Statistics of a classifier's predictions, in float64 on the host."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927), within [0, 1]."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    p = successes / count
    center = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def expected_calibration_error(
    confidence: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], bins: int = 15
) -> float:
    """How far confidence is from accuracy: the mean over equal bins (low, high] of |accuracy - confidence|, weighted
    by how many examples a bin has (Guo et al., 2017, equation 3).
    """
    which = np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(int) - 1, 0, bins - 1)
    accuracy = np.bincount(which, weights=correct, minlength=bins)
    stated = np.bincount(which, weights=confidence, minlength=bins)
    return float(np.abs(accuracy - stated).sum() / len(correct))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value that two classifiers are equally good, from the examples only one of them got right."""
    discordant = only_a + only_b
    return float(stats.binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def paired_difference(only_a: int, only_b: int, count: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Accuracy of B less that of A on the same examples, and its interval (normal approximation of paired data)."""
    difference = (only_b - only_a) / count
    error = np.sqrt(max(0.0, only_a + only_b - (only_b - only_a) ** 2 / count)) / count
    half = float(stats.norm.ppf(0.5 + confidence / 2) * error)
    return difference, difference - half, difference + half


def per_class(
    labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], class_names: list[str]
) -> list[dict[str, object]]:
    """For each class: examples, how many were recognised (recall, with its interval), and precision.

    A rate of nothing is None.
    """
    rows: list[dict[str, object]] = []
    for i, name in enumerate(class_names):
        count, said = int((labels == i).sum()), int((predicted == i).sum())
        correct = int(((labels == i) & (predicted == i)).sum())
        rows.append(
            {
                "name": name,
                "count": count,
                "correct": correct,
                "recall": correct / count if count else None,
                "recall_interval": wilson_interval(correct, count) if count else None,
                "precision": correct / said if said else None,
            }
        )
    return rows
