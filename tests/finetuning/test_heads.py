"""Heads on features against scikit-learn, which solves the same problems by other means."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from xception_jax.data.labelled import Labelled
from xception_jax.finetuning import calibration, deep, heads, linear
from xception_jax.finetuning.fit import balanced
from xception_jax.finetuning.fitting import Examples, best
from xception_jax.finetuning.scale import Scale
from xception_jax.models.variables import Weights


def split(features, targets, outputs):
    """Every third example is for validation."""
    weights = np.ones(len(features), np.float32)
    held = np.arange(len(features)) % 3 == 0
    return [Examples(features[rows], targets[rows], weights[rows], outputs) for rows in (~held, held)]


@pytest.fixture(scope="module")
def digits():
    """Training and validation examples of 10 classes; some features are constant."""
    features, labels = load_digits(return_X_y=True)
    return split(features.astype(np.float32), labels.astype(np.int32), 10)


def scaled(train, features):
    """Features with mean 0 and a mean deviation of 1 over the training split."""
    return (features - train.features.mean(0)) / train.features.std(0).mean()


def test_logistic_regression_is_that_of_scikit_learn(digits):
    train, validation = digits
    (trial,) = linear.fit("single_label", train, validation, lambda trial: None, [0.01])
    peer = LogisticRegression(C=1 / (0.01 * len(train.features)), max_iter=10000, tol=1e-8)
    peer.fit(scaled(train, train.features), train.targets)
    probabilities = peer.predict_proba(scaled(train, validation.features))
    assert trial.validation_loss == pytest.approx(log_loss(validation.targets, probabilities), rel=2e-3)
    logits = heads.logits("", trial.head, validation.features)
    ours = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
    assert np.abs(ours - probabilities).max() < 0.02


def test_balanced_images_are_weighted_as_by_scikit_learn(tmp_path):
    """By the counts of the training split; weights that images already have count within their class."""
    targets = np.array([0, 0, 0, 1, 2, 2, 0], np.int32)
    split_names = np.array(["train"] * 6 + ["validation"])
    labelled = Labelled(tmp_path, tuple("abcdefg"), "single_label", ("x", "y", "z"), targets, split_names)
    ours = balanced(labelled).weight
    theirs = compute_sample_weight("balanced", targets[:6])
    np.testing.assert_allclose(ours[:6] / ours[0], theirs / theirs[0], rtol=1e-6)
    assert ours[6] == ours[0]
    again = balanced(dataclasses.replace(labelled, weight=np.float32([3, 1, 0, 7, 1, 1, 1]))).weight
    np.testing.assert_allclose(np.bincount(targets[:6], again[:6]), 1, rtol=1e-6)
    assert again[0] == pytest.approx(3 * again[1])


def test_several_labels_are_a_regression_each(digits):
    """Whether a digit is even, and whether it is over 4."""
    train, validation = (
        Examples(e.features, np.stack([e.targets % 2 == 0, e.targets > 4], 1).astype(np.float32), e.weights, 2)
        for e in digits
    )
    (trial,) = linear.fit("multi_label", train, validation, lambda trial: None, [0.01])
    logits = heads.logits("", trial.head, validation.features)
    for label in range(2):
        peer = LogisticRegression(C=1 / (0.01 * len(train.features)), max_iter=10000, tol=1e-8)
        peer.fit(scaled(train, train.features), train.targets[:, label])
        theirs = peer.predict_proba(scaled(train, validation.features))[:, 1]
        assert np.abs(1 / (1 + np.exp(-logits[:, label])) - theirs).max() < 0.02


def test_linear_regression_is_ridge():
    features, targets = load_diabetes(return_X_y=True)
    values = ((targets - targets.mean()) / targets.std()).astype(np.float32)
    train, validation = split(features.astype(np.float32), values[:, None], 1)
    (trial,) = linear.fit("regression", train, validation, lambda trial: None, [0.1])
    peer = Ridge(0.1 * len(train.features)).fit(scaled(train, train.features), train.targets[:, 0])
    theirs = peer.predict(scaled(train, validation.features))
    assert np.abs(heads.logits("", trial.head, validation.features)[:, 0] - theirs).max() < 0.01


def test_numbers_of_any_size_have_one_scale(tmp_path):
    """Coordinates in metres, millions from their origin: sums of float32 would be off by their deviation."""
    rng = np.random.default_rng(0)
    means, deviations = (5.4e6, 6.9e5), (500, 500)
    targets = rng.normal(means, deviations, (20_000, 2)).astype(np.float32)
    files, split = tuple(map(str, range(len(targets)))), np.full(len(targets), "train")
    labelled = Labelled(tmp_path, files, "regression", ("north", "east"), targets, split)
    scaled = Scale.of(labelled)(labelled).targets
    np.testing.assert_allclose(scaled.mean(0, dtype=np.float64), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0, dtype=np.float64), 1, rtol=1e-3)


def test_the_strength_is_chosen_by_the_validation_split(digits):
    """With few examples, a strong regularization is better; and the search ends after weaker ones are worse."""
    train, validation = digits
    few = Examples(train.features[:30], train.targets[:30], train.weights[:30], 10)
    trials = linear.fit("single_label", few, validation, lambda trial: None)
    assert len(trials) < len(linear.STRENGTHS)
    losses = [trial.validation_loss for trial in trials]
    assert best(trials).validation_loss == min(losses) < min(losses[0], losses[-1])


def test_a_hidden_layer_learns_what_a_linear_head_cannot():
    """Whether two numbers have the same sign."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(900, 2)).astype(np.float32)
    train, validation = split(features, (features.prod(1) > 0).astype(np.int32), 2)
    accuracy = {}
    for head, fit in (("", linear.fit), ("dense 32 relu", deep.fit)):
        layers = (head,) if head else ()
        trials = fit("single_label", *layers, train, validation, lambda trial: None, [0.001])
        logits = heads.logits(head, best(trials).head, validation.features)
        accuracy[head] = (logits.argmax(1) == validation.targets).mean()
    assert accuracy[""] < 0.65
    assert accuracy["dense 32 relu"] > 0.9


def test_the_temperature_is_recovered():
    """Labels drawn from a softmax, and logits three times as large as they were."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 5)) * 2
    cumulative = np.cumsum(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1)
    labels = (rng.random((20000, 1)) > cumulative).sum(1).astype(np.int32)
    found = calibration.temperature("single_label", (3 * logits).astype(np.float32), labels)
    assert found == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_few_images_that_are_all_right_do_not_make_a_network_sure_of_everything(task):
    """Of 18, chance alone may leave none wrong: 19 of 20 is what is expected of the next ones."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 6).astype(np.int32)
    logits = (rng.normal(size=(18, 3)) * 0.2 + 2 * np.eye(3)[labels] - 1).astype(np.float32)
    targets = labels if task == "single_label" else np.eye(3, dtype=np.float32)[labels]
    scaled = logits / calibration.temperature(task, logits, targets)
    right = (
        np.exp(scaled - np.logaddexp.reduce(scaled, 1, keepdims=True))
        if task == "single_label"
        else (1 / (1 + np.exp(-scaled)))
    )
    assert 0.9 < right[np.arange(18), labels].mean() < 0.99


def test_the_temperature_is_in_the_last_layer(digits):
    weights = Weights({"logits": {"kernel": np.ones((64, 3), np.float32), "bias": np.ones(3, np.float32)}}, {})
    before = heads.logits("", weights, digits[1].features)
    after = heads.logits("", calibration.cooled(weights, 2.0), digits[1].features)
    np.testing.assert_allclose(after, before / 2, rtol=1e-6)
