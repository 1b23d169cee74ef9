"""Statistics against published figures, other libraries and enumeration of all cases."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from xception_jax.evaluation import statistics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_the_published_one(successes, n, low, high):
    np.testing.assert_allclose(statistics.wilson_interval(successes, n), (low, high), atol=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_interval_is_scipys(confidence):
    for n in (1, 7, 1000):
        for successes in {0, 1, n // 2, n}:
            expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
            actual = statistics.wilson_interval(successes, n, confidence)
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
            assert actual[0] <= successes / n <= actual[1]


def test_wilson_interval_of_nothing_is_everything():
    assert statistics.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_the_sum_over_bins(bins):
    rng = np.random.default_rng(0)
    edges = np.linspace(0, 1, bins + 1)
    confidence = np.concatenate([rng.random(500), edges[1:]])
    correct = rng.random(len(confidence)) < confidence**2
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [(c, p) for c, p in zip(correct, confidence, strict=True) if low < p <= high]
        if inside:
            accuracy, mean = (math.fsum(column) / len(inside) for column in zip(*inside, strict=True))
            expected += len(inside) / len(confidence) * abs(accuracy - mean)
    assert statistics.expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_of_sure_and_wrong_is_one():
    ones = np.ones(4, np.float32)
    assert statistics.expected_calibration_error(ones, ones == 0) == 1.0
    assert statistics.expected_calibration_error(ones, ones == 1) == 0.0


def test_the_end_of_a_bin_belongs_to_it():
    error = statistics.expected_calibration_error(np.array([0.5, 0.9]), np.array([False, True]), bins=2)
    assert error == pytest.approx((0.5 + 0.1) / 2)


def discordant(only_a, only_b, both=3):
    a = np.array([True] * only_a + [False] * only_b + [True] * both)
    b = np.array([False] * only_a + [True] * only_b + [True] * both)
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (4, 4), (2, 9), (10, 1)])
def test_mcnemar_counts_the_throws_of_a_coin(only_a, only_b):
    n = only_a + only_b
    uneven = sum(
        abs(2 * sum(throws) - n) >= abs(only_a - only_b) for throws in itertools.product((False, True), repeat=n)
    )
    result = statistics.mcnemar(*discordant(only_a, only_b))
    assert result[:2] == (only_a, only_b)
    assert result.p_value == pytest.approx(uneven / 2**n)


@pytest.mark.parametrize(("only_a", "only_b"), [(500, 590), (20_000, 20_000), (0, 300)])
def test_mcnemar_of_many_is_scipys_binomial_test(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue
    assert statistics.mcnemar(*discordant(only_a, only_b)).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("share_a", "share_b"), [(0.05, 0.05), (0.1, 0.3), (0.02, 0.1)])
def test_paired_interval_covers_the_difference_as_often_as_it_says(share_a, share_b):
    n, covered = 40, 0.0
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            low, high = statistics.paired_difference_interval(only_a, only_b, n)
            if low <= share_b - share_a <= high:
                counts = (only_a, only_b, n - only_a - only_b)
                covered += stats.multinomial.pmf(counts, n, (share_a, share_b, 1 - share_a - share_b))
    assert 0.94 < covered < 0.99


def test_paired_interval_turns_around_with_the_networks_and_stays_in_range():
    low, high = statistics.paired_difference_interval(3, 12, 200)
    assert statistics.paired_difference_interval(12, 3, 200) == pytest.approx((-high, -low))
    assert statistics.paired_difference_interval(0, 1, 1)[1] <= 1.0


def test_class_results_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, (2, 60))  # of 5 classes: the last has no example and no prediction
    predicted[predicted == 2] = 1  # and one is never predicted
    results = statistics.class_results(labels, predicted, list("abcde"))
    precision, recall, f1, count = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=np.nan
    )

    def column(name):
        return np.array([r[name] for r in results], float)  # None becomes NaN

    np.testing.assert_array_equal([r["name"] for r in results], list("abcde"))
    np.testing.assert_array_equal(column("count"), count)
    np.testing.assert_allclose(column("precision"), precision)
    np.testing.assert_allclose(column("top1"), recall)
    np.testing.assert_allclose(column("f1"), f1)
    assert results[0]["top1_interval"] == statistics.wilson_interval(results[0]["correct"], results[0]["count"])
