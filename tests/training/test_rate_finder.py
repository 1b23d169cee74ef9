"""The trial of learning rates; `test_loop` runs one."""

import math

import numpy as np
import pytest

from xception_jax.training import rate_finder
from xception_jax.training.rate_finder import Trial, smoothed


def test_the_moving_average_is_corrected_for_its_start():
    # 0.95 * 0.05 * 2 + 0.05 * 4 = 0.295, of weights that sum to 1 - 0.95 ** 2 = 0.0975.
    np.testing.assert_allclose(list(smoothed([2.0, 4.0])), [2.0, 0.295 / 0.0975])


@pytest.mark.parametrize("last", [math.nan, math.inf, 1e9])
def test_the_trial_ends_where_the_loss_diverges(last):
    taken = iter([1.0, 1.0, 1.0, last, 1.0])
    np.testing.assert_allclose(list(smoothed(taken)), [1.0] * 3)
    assert list(taken) == [1.0]  # no step is taken after it


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_least_loss():
    rates = tuple(np.geomspace(1e-6, 1.0, 61))  # ten steps a decade
    trial = Trial(rates, tuple(1 + (np.log10(rates) + 2) ** 2))  # least at 0.01
    assert trial.suggestion == pytest.approx(1e-3)
    assert Trial(rates, tuple(np.linspace(1, 2, 61))).suggestion is None  # it only rises
    assert Trial(rates[:3], (1.0, 1.1, 3.0)).suggestion is None


def test_rates_rise_geometrically():
    rates = [float(rate_finder.rates()(step)) for step in (0, 1, rate_finder.STEPS - 1)]
    np.testing.assert_allclose(rates, [1e-7, 1e-7 * 1e8 ** (1 / 199), 10.0], rtol=1e-5)
