"""Prediction sets: their threshold by hand, their coverage on data for which the guarantee holds."""

import numpy as np
import pytest
from scipy import stats

from xception_jax.evaluation.conformal import measure, members, threshold
from xception_jax.evaluation.outcome import Outcome


def test_the_threshold_is_the_quantile_worked_out_by_hand():
    """Nine images: of 10 * (1 - alpha), rounded up, the true classes' scores from the highest on."""
    of_true = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.5])
    scores, targets = np.stack([of_true, 1 - of_true], 1), np.zeros(9, int)
    assert threshold(scores, targets, 0.5) == 0.5  # the fifth
    assert threshold(scores, targets, 0.45) == 0.4  # the sixth: 5.5, rounded up
    assert threshold(scores, targets, 0.1) == 0.1  # the ninth, the lowest
    assert threshold(scores, targets, 0.05) == 0  # there is no tenth: all classes
    assert threshold(scores, targets, 0.9) == 0.9  # the first


def test_sets_have_the_classes_from_the_threshold_on_and_always_the_first():
    scores = np.array([[0.5, 0.3, 0.2], [0.25, 0.4, 0.35], [0.1, 0.1, 0.8]])
    np.testing.assert_array_equal(
        members(scores, 0.3), [[True, True, False], [False, True, True], [False, False, True]]
    )
    np.testing.assert_array_equal(members(scores, 0.9).sum(1), [1, 1, 1])
    assert members(scores, 0.0).all()


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.1), (100, 0.05), (59, 0.08)])
def test_coverage_is_what_theory_says(n, alpha):
    """A threshold and one more image, thousands of times: each is covered with probability k / (n + 1), exactly.

    The scores are wrong about the labels, which the guarantee allows. Thresholds are below 1 / K here, so that the
    first class is in the set anyway.
    """
    rng, trials, classes = np.random.default_rng(0), 3000, 5
    scores = rng.dirichlet(np.ones(classes), (trials, n + 1))
    targets = (np.sqrt(scores) * 0.2 + rng.gumbel(size=scores.shape)).argmax(-1)
    covered = 0
    for of_images, true in zip(scores, targets, strict=True):
        limit = threshold(of_images[:-1], true[:-1], alpha)
        assert limit < 1 / classes
        covered += members(of_images[-1:], limit)[0, true[-1]]
    k = np.ceil(np.round((n + 1) * (1 - alpha), 9))
    low, high = stats.binom.interval(1 - 1e-6, trials, k / (n + 1))
    assert low <= covered <= high


def test_coverage_and_size_are_counted():
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]])
    outcome = Outcome("test", tuple("abcd"), "single_label", ("x", "y", "z"), np.array([1, 0, 2, 2]), np.log(scores))
    found = measure(outcome, 0.28)  # sets: xy, yz, z, xy; with the true class: the first and the third
    assert (found["count"], found["coverage"], found["mean_size"]) == (4, 0.5, 1.75)
    assert found["interval"][0] < 0.5 < found["interval"][1]
