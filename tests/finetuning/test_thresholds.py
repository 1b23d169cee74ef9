"""Thresholds of uncertainty, on outcomes made by hand."""

import math

import numpy as np
import pytest

from xception_jax.evaluation.outcome import Outcome
from xception_jax.finetuning import thresholds


def outcome(correct, deviation, groups=None):
    """Images of class 0, of which some are answered with class 1."""
    correct, deviation = np.array(correct, bool), np.array(deviation, float)
    logits = np.where(correct[:, None], [2.0, 0.0], [0.0, 2.0])
    files = tuple(map(str, range(len(correct))))
    group = None if groups is None else np.array(groups)
    zeros = np.zeros(len(correct), np.int32)
    return Outcome("validation", files, "single_label", ("a", "b"), zeros, logits, group, np.stack([deviation] * 2, 1))


def test_youden_by_hand():
    """Above 0.2 are both wrong ones and one of four right ones: 1 - 1/4; no other threshold has more."""
    uncertainty = np.array([0.1, 0.1, 0.2, 0.5, 0.4, 0.6])
    assert thresholds.youden(uncertainty, np.array([1, 1, 1, 1, 0, 0], bool)) == 0.2


@pytest.mark.parametrize("correct", [True, False])
def test_nothing_to_tell_apart_keeps_everything(correct):
    assert thresholds.youden(np.array([0.1, 0.2]), np.full(2, correct)) == math.inf


def test_certain_images_are_kept_and_more_often_right():
    rng = np.random.default_rng(0)
    uncertain = rng.random(2000)
    found = thresholds.find(outcome(rng.random(2000) > uncertain, uncertain))
    assert found.group is None
    assert 0.4 < found.image < 0.6  # where right and wrong are equally frequent
    new = rng.random(2000)
    result = thresholds.apply(outcome(rng.random(2000) > new, new), found)["images"]
    assert result["kept"] == (new <= found.image).sum()
    assert result["kept_accuracy"] > result["accuracy"] + 0.2


def test_groups_are_judged_by_the_mean_of_their_kept_images():
    """Group x: two of three kept images are right, so the mean is; y has no kept image; z is wrong and uncertain."""
    made = outcome([1, 1, 0, 0, 0], [0.1, 0.1, 0.1, 0.9, 0.3], ["x", "x", "x", "y", "z"])
    result = thresholds.apply(made, thresholds.Thresholds(0.5, 0.2))["groups"]
    assert (result["count"], result["accuracy"]) == (3, pytest.approx(1 / 3))
    assert (result["kept"], result["kept_accuracy"]) == (1, 1.0)
