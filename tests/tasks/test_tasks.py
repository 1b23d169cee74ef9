"""Losses and figures of several labels and of numbers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from xception_jax.errors import UserError
from xception_jax.evaluation import analysis, statistics
from xception_jax.evaluation.outcome import Outcome
from xception_jax.tasks.losses import binary_cross_entropy, squared_error
from xception_jax.tasks.metrics import find_metrics
from xception_jax.tasks.precision import average_precision_at
from xception_jax.tasks.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, lowest_is_best

NAN = np.nan
N, K = 60, 7


@pytest.fixture(scope="module")
def several():
    """Logits and labels, of which a third is not known, with an image of which nothing is and one without labels."""
    rng = np.random.default_rng(0)
    targets = (rng.random((N, K)) < 0.3).astype(np.float32)
    logits = (2 * targets - 1 + 2 * rng.normal(size=(N, K))).astype(np.float32)
    targets[rng.random((N, K)) < 1 / 3] = NAN
    targets[0], targets[1] = NAN, 0
    return logits, targets


def outcome(logits, targets, task="multi_label", **more):
    names = tuple(f"class {k}" for k in range(logits.shape[1]))
    return Outcome("test", tuple(map(str, range(len(logits)))), task, names, targets, logits, **more)


def entropy(logit, target):
    p = special.expit(np.float64(logit))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def test_binary_cross_entropy_is_the_mean_over_the_labels_that_are_known():
    logits = jnp.array([[2.0, -1.0, 0.5], [1.0, 1.0, 1.0]])
    targets = jnp.array([[1.0, 0.0, NAN], [NAN, NAN, NAN]])
    expected = (entropy(2, 1) + entropy(-1, 0)) / 2
    np.testing.assert_allclose(binary_cross_entropy(logits, targets), [expected, 0], rtol=1e-5)
    smoothed = (entropy(2, 0.95) + entropy(-1, 0.05)) / 2
    np.testing.assert_allclose(binary_cross_entropy(logits, targets, label_smoothing=0.1)[0], smoothed, rtol=1e-5)
    weighted = (3 * entropy(2, 1) + 0.5 * entropy(-1, 0)) / 2
    found = binary_cross_entropy(logits, targets, label_weights=(3.0, 0.5, 9.0))
    np.testing.assert_allclose(found[0], weighted, rtol=1e-5)


def test_binary_cross_entropy_is_that_of_pytorch(several):
    torch = pytest.importorskip("torch")
    logits, targets = several[0], np.nan_to_num(several[1])
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(targets))
    assert float(binary_cross_entropy(jnp.array(logits), jnp.array(targets)).mean()) == pytest.approx(float(theirs))


def test_an_unknown_label_has_no_gradient(several):
    import jax

    logits, targets = several
    gradient = jax.grad(lambda x: binary_cross_entropy(x, jnp.array(targets)).sum())(jnp.array(logits))
    np.testing.assert_array_equal(np.asarray(gradient) == 0, np.isnan(targets))


def test_losses_are_those_of_outcomes(several):
    """Training and evaluation mean the same by a loss."""
    logits, targets = several
    np.testing.assert_allclose(binary_cross_entropy(*map(jnp.array, several)), outcome(*several).losses, rtol=1e-4)
    numbers = np.nan_to_num(targets) + 0.5
    losses = outcome(logits, numbers, "regression").losses
    np.testing.assert_allclose(squared_error(jnp.array(logits), jnp.array(numbers)), losses, rtol=1e-5)


def test_average_precision_of_an_image_by_hand():
    """Labels first and third: (1/1 + 2/3) / 2. What is not known is passed over: the third is the second then."""
    logits = jnp.array([[4.0, 3.0, 2.0, 1.0]] * 4)
    targets = jnp.array([[1, 0, 1, 0], [1, NAN, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1]], jnp.float32)
    expected = [(1 + 2 / 3) / 2, 1, NAN, (1 / 3 + 2 / 4) / 2]
    np.testing.assert_allclose(average_precision_at(logits, targets), expected, rtol=1e-6)
    np.testing.assert_allclose(analysis.average_precisions(np.array(logits), np.array(targets)), expected)
    # Of the two best alone: of the first image's two labels one is there, which comes first; of the last image's none.
    np.testing.assert_allclose(average_precision_at(logits, targets, k=2), [1 / 2, 1, NAN, 0], rtol=1e-6)


def test_training_shows_what_evaluation_measures(several):
    found = MULTI_LABEL.training_metrics(*map(jnp.array, several))["map_at_100"]
    assert float(found) == pytest.approx(analysis.figures_of(outcome(*several))["map_at_100"], rel=1e-5)
    nothing = MULTI_LABEL.training_metrics(jnp.ones((2, 3)), jnp.zeros((2, 3)))["map_at_100"]
    assert float(nothing) == 0  # not a number that stops a run


def test_figures_are_scikit_learns_of_what_is_known(several):
    logits, targets = several
    known, figures = ~np.isnan(targets), analysis.figures_of(outcome(logits, targets))
    each = [(targets[of, k], logits[of, k]) for k, of in enumerate(known.T)]
    macro = np.mean([sklearn_metrics.average_precision_score(*pair) for pair in each])
    assert figures["macro_average_precision"] == pytest.approx(macro)
    assert figures["macro_roc_auc"] == pytest.approx(np.mean([sklearn_metrics.roc_auc_score(*pair) for pair in each]))
    micro = sklearn_metrics.average_precision_score(targets[known], logits[known])
    assert figures["micro_average_precision"] == pytest.approx(micro)
    f1 = sklearn_metrics.f1_score(targets[known], logits[known] >= 0)
    assert figures["micro_f1"] == pytest.approx(f1)
    result = analysis.analyse(outcome(logits, targets), resamples=100)
    assert result["figures"].keys() >= figures.keys()
    assert any("nothing is known" in remark for remark in result["remarks"])


def test_weighted_map_counts_a_class_by_its_weight():
    """As by hand: weights 3 and 1 of two labels, found at ranks 1 and 3; a class of weight 0 does not count."""
    logits = np.array([[4.0, 3.0, 2.0]])
    found = outcome(logits, np.array([[1.0, 0.0, 1.0]]), class_weights=np.array([3.0, 1.0, 1.0]))
    assert analysis.figures_of(found)["weighted_map_at_100"] == pytest.approx((3 * 1 + 1 * 2 / 3) / 4)
    assert "weighted_map_at_100" not in analysis.figures_of(outcome(logits, found.targets))


def test_sign_flips_are_those_of_all_assignments():
    differences = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.1, 0.6, 0.05, 0.15])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    assert statistics.sign_flip_test(differences) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))
    assert statistics.sign_flip_test(np.zeros(5)) == 1
    assert statistics.sign_flip_test(np.ones(40)) == pytest.approx(1e-4)


def test_labels_that_are_none_are_refused():
    match = MULTI_LABEL.matched(("a", "b"), ("b", "c", "a"))
    np.testing.assert_array_equal(match(np.array([1, NAN])), [NAN, 0, 1])
    for wrong in (np.array([1, 0, 0]), np.array([0.5, 1]), 1):
        with pytest.raises(UserError, match="2 are needed, each 1, 0, or NaN"):
            match(wrong)
    with pytest.raises(UserError, match="classes that this run does not know by name: z; the run has b, c, a"):
        MULTI_LABEL.matched(("a", "z"), ("b", "c", "a"))
    np.testing.assert_array_equal(REGRESSION.matched(("x", "y"), ("y",))(np.array([1.0, 2.0])), [2])
    with pytest.raises(UserError, match="does not have the numbers y of this run; it has x"):
        REGRESSION.matched(("x",), ("x", "y"))
    with pytest.raises(UserError, match="1 finite numbers"):
        REGRESSION.matched(("x",), ("x",))(np.array([NAN]))


def test_mixed_labels_have_a_most_probable_class():
    logits = jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    soft = jnp.array([[0.3, 0.7, 0.0], [0.6, 0.4, 0.0]])
    assert float(SINGLE_LABEL.training_metrics(logits, soft)["top1"]) == 0.5


def test_every_task_says_what_it_measures():
    from xception_jax.tasks.losses import LOSSES

    for task in TASKS.values():
        assert task.loss in task.losses
        assert set(task.losses) <= set(LOSSES)
    assert [name for name in ("loss", "mae", "rmse", "r2", "top1", "mine") if lowest_is_best(name)] == [
        *("loss", "mae", "rmse")
    ]


NAMES_TAKEN = {"ece", "learning_rate", *(name for task in TASKS.values() for name in task.figures)}


@pytest.mark.parametrize("name", sorted(NAMES_TAKEN))
def test_a_metric_does_not_take_the_name_of_a_figure(name):
    with pytest.raises(UserError, match=f'"mine:{name}" would be reported as "{name}", which is already used'):
        find_metrics([f"mine:{name}"], {})
