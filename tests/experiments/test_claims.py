"""Verdicts, against SciPy's own test and by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments.claims import Spread, difference, spread_of, verdict


def test_with_two_variants_the_interval_is_that_of_students_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 0.01, 4).tolist(), rng.normal(0.58, 0.01, 3).tolist()
    mean, (low, high) = difference(a, b, spread_of({"a": a, "b": b}))
    expected = stats.ttest_ind(a, b).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_the_spread_is_pooled_over_variants_of_any_number_of_runs():
    spread = spread_of({"a": [1.0, 3.0], "b": [5.0, 5.0, 8.0], "alone": [100.0]})
    assert spread.freedom == 3
    assert spread.deviation == pytest.approx(((2 + 6) / 3) ** 0.5)  # squares about 2, and about 6


@pytest.mark.parametrize(
    ("better", "worse", "says"),
    [
        ([0.62, 0.61, 0.63], [0.52, 0.51, 0.53], "holds"),
        ([0.52, 0.51, 0.53], [0.62, 0.61, 0.63], "does not hold"),
        ([0.62, 0.61, 0.63], [0.615, 0.61, 0.63], "can't tell"),
        ([0.62, 0.61], [0.52, 0.51, 0.53], "too few seeds"),
        ([], [0.52, 0.51, 0.53], "not measured"),
    ],
)
def test_a_verdict_follows_from_the_interval(better, worse, says):
    assert verdict(better, worse, Spread(0.01, 4)) == says
