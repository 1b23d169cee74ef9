"""Verdicts, against SciPy's own test and by hand."""

import math

import pytest
from scipy import stats

from experiments.claims import difference, verdict


def test_the_interval_is_welchs_as_by_hand():
    """Deviations 0.01 and 0.02, three runs each (B. L. Welch, 1947)."""
    mean, (low, high) = difference([0.61, 0.62, 0.63], [0.48, 0.50, 0.52])
    assert mean == pytest.approx(0.12)
    error, freedom = math.sqrt((1e-4 + 4e-4) / 3), (5e-4 / 3) ** 2 / ((1e-4 / 3) ** 2 / 2 + (4e-4 / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * error
    assert (low, high) == pytest.approx((0.12 - half, 0.12 + half))


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
    assert verdict(better, worse) == says
