"""Figures against scikit-learn, SciPy and hand-worked cases; intervals against what is known of them."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from xception_jax.evaluation import analysis, weighted
from xception_jax.evaluation.analysis import analyse, average_precisions, calibration
from xception_jax.evaluation.outcome import Outcome


def outcome(task, targets, logits, **fields):
    n, k = np.shape(logits)
    names, files = tuple(f"class {i}" for i in range(k)), tuple(f"{i}.png" for i in range(n))
    return Outcome("test", files, task, names, np.asarray(targets), np.asarray(logits), **fields)


def single_label(n=150, k=5, seed=0, **fields):
    rng = np.random.default_rng(seed)
    targets = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[targets]
    return outcome("single_label", targets, logits.round(1), **fields)


def multi_label(n=120, k=6, seed=0, **fields):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < 0.3).astype(np.float32)
    return outcome("multi_label", targets, (rng.normal(size=(n, k)) + 2 * targets - 1).round(1), **fields)


def values_of(figures):
    return {name: figure["value"] for name, figure in figures.items()}


def assert_figures(found, expected):
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [2, 5])
def test_figures_of_classes_are_scikit_learns(k):
    o = single_label(k=k)
    scores, answers = o.scores, o.scores.argmax(axis=1)
    positive = o.targets[:, None] == np.arange(k)
    found = analyse(o, resamples=100)
    binary = k == 2
    assert_figures(
        values_of(found["figures"]),
        {
            "accuracy": metrics.accuracy_score(o.targets, answers),
            "balanced_accuracy": metrics.balanced_accuracy_score(o.targets, answers),
            "macro_f1": metrics.f1_score(o.targets, answers, average="macro"),
            "roc_auc": metrics.roc_auc_score(o.targets, scores[:, 1] if binary else scores, multi_class="ovr"),
            "average_precision": metrics.average_precision_score(
                o.targets if binary else positive, scores[:, 1] if binary else scores
            ),
            "log_loss": metrics.log_loss(o.targets, scores),
        },
    )
    np.testing.assert_array_equal(found["confusion"], metrics.confusion_matrix(o.targets, answers))
    columns = metrics.precision_recall_fscore_support(o.targets, answers)
    for i, entry in enumerate(found["per_class"]):
        precision, recall, f1, count = (column[i] for column in columns)
        area = metrics.roc_auc_score(positive[:, i], scores[:, i])
        found_figures = {name: entry[name]["value"] for name in ("precision", "recall", "f1", "roc_auc")}
        assert_figures(found_figures, {"precision": precision, "recall": recall, "f1": f1, "roc_auc": area})
        assert (entry["count"], entry["answered"]) == (count, (answers == i).sum())


def test_figures_of_several_labels_are_scikit_learns():
    o = multi_label()
    answers = o.scores >= 0.5
    expected = {
        "macro_roc_auc": metrics.roc_auc_score(o.targets, o.scores),
        "map_at_100": metrics.label_ranking_average_precision_score(
            o.targets[o.targets.any(axis=1)], o.scores[o.targets.any(axis=1)] - 1e-9 * np.arange(6)
        ),
        "log_loss": np.mean(
            [metrics.log_loss(t, s, labels=(0, 1)) for t, s in zip(o.targets.T, o.scores.T, strict=True)]
        ),
    }
    for mean in ("macro", "micro"):
        expected[f"{mean}_average_precision"] = metrics.average_precision_score(o.targets, o.scores, average=mean)
        expected[f"{mean}_f1"] = metrics.f1_score(o.targets, answers, average=mean)
    assert_figures(values_of(analyse(o, resamples=100)["figures"]), expected)


def test_figures_of_values_are_scikit_learns_and_scipys():
    rng = np.random.default_rng(0)
    targets = rng.integers(6, size=(80, 2)) + 1990.0
    o = outcome("regression", targets, targets + rng.normal(size=(80, 2)).round(1))
    found = analyse(o, resamples=100)
    every = []
    for i, entry in enumerate(found["per_class"]):
        true, predicted = targets[:, i], o.logits[:, i]
        expected = {
            "r2": metrics.r2_score(true, predicted),
            "mae": metrics.mean_absolute_error(true, predicted),
            "rmse": metrics.root_mean_squared_error(true, predicted),
            "pearson": stats.pearsonr(true, predicted).statistic,
            "spearman": stats.spearmanr(true, predicted).statistic,
        }
        assert_figures({name: entry[name]["value"] for name in expected}, expected)
        every.append(expected)
    means = {name: np.mean([expected[name] for expected in every]) for name in every[0]}
    assert_figures(values_of(found["figures"]), means)
    assert found["baseline"]["r2"] == pytest.approx(0, abs=1e-12)


def test_weightings_are_those_of_repeated_images():
    """Each resample's figures are scikit-learn's and SciPy's of the images as often as they were drawn."""
    rng = np.random.default_rng(1)
    weights = rng.integers(4, size=(60, 3)).astype(float)
    positive, scores = rng.random(60) < 0.4, rng.normal(size=60).round(1)
    other = (scores + rng.normal(size=60)).round(1)
    found = weighted.Ranking(scores, positive)(weights)
    correlations = weighted.pearson(scores, other, weights), weighted.spearman(scores, other, weights)
    f1 = weighted.Counter(positive[:, None], scores[:, None] > 0)(weights).f1[0]
    for r, times in enumerate(weights.T.astype(int)):
        t, s, o = (np.repeat(column, times) for column in (positive, scores, other))
        assert found[0][r] == pytest.approx(metrics.roc_auc_score(t, s))
        assert found[1][r] == pytest.approx(metrics.average_precision_score(t, s))
        assert f1[r] == pytest.approx(metrics.f1_score(t, s > 0))
        assert correlations[0][r] == pytest.approx(stats.pearsonr(s, o).statistic)
        assert correlations[1][r] == pytest.approx(stats.spearmanr(s, o).statistic)


def test_average_precision_of_the_highest_scores():
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.3, 0.2]])
    targets = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    # First: ranks 1 and 3, (1 + 2/3) / 2. Second: rank 4 of 4. Third: no label.
    np.testing.assert_allclose(average_precisions(scores, targets), [5 / 6, 1 / 4, np.nan])
    # Of two predictions, the first image finds one of two labels, the second none.
    np.testing.assert_allclose(average_precisions(scores, targets, k=2), [1 / 2, 0, np.nan])
    # The third class counts three times as much as the first: (1 + 3 * 2/3) / 4.
    weights = np.array([1, 1, 3, 1])
    np.testing.assert_allclose(average_precisions(scores, targets, weights=weights), [3 / 4, 1 / 4, np.nan])


def test_copies_of_an_image_in_a_group_tell_nothing_new():
    """Ten copies of each image, as a group, have the intervals of the images; as independent images, narrower ones."""
    once = single_label(n=60)
    copied = {name: np.repeat(getattr(once, name), 10, axis=0) for name in ("targets", "logits")}
    groups = np.repeat([f"patient {i:02d}" for i in range(60)], 10)
    grouped, naive = (analyse(outcome("single_label", **copied, group=g)) for g in (groups, None))
    for name, figure in analyse(once)["figures"].items():
        assert grouped["figures"][name]["value"] == pytest.approx(figure["value"])
        if name not in ("accuracy", "ece"):  # Wilson's, and none
            assert grouped["figures"][name]["interval"] == pytest.approx(figure["interval"], rel=1e-4)
            assert np.ptp(naive["figures"][name]["interval"]) < 0.5 * np.ptp(figure["interval"])
    assert grouped["interval"] == {"confidence": 0.95, "resamples": 1000, "of": "groups", "units": 60}
    assert "60 groups" in " ".join(grouped["remarks"])


def test_intervals_cover_the_true_value():
    """The mean absolute error of standard normal errors is sqrt(2 / pi)."""
    rng, hits = np.random.default_rng(0), 0
    for seed in range(100):
        o = outcome("regression", np.zeros((60, 1)), rng.normal(size=(60, 1)))
        low, high = analyse(o, seed=seed, resamples=200)["figures"]["mae"]["interval"]
        hits += low <= np.sqrt(2 / np.pi) <= high
    assert 0.89 <= hits / 100 <= 0.99


def test_a_seed_gives_the_same_intervals():
    o = multi_label()
    assert analyse(o, seed=1) == analyse(o, seed=1)
    assert analyse(o, seed=1)["figures"]["macro_f1"] != analyse(o, seed=2)["figures"]["macro_f1"]


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_classes_without_images_are_left_out_of_means(task):
    """By scikit-learn, the means are those of the other classes; what is undefined is None, never NaN."""
    o = single_label() if task == "single_label" else multi_label()
    k = len(o.class_names)
    kept = np.ones(len(o.files), bool) if task == "multi_label" else o.targets != 2
    targets = o.targets[kept].copy()
    if task == "multi_label":
        targets[:, 2] = 0
    o = outcome(task, targets, o.logits[kept])
    found = analyse(o, resamples=100)
    json.dumps(found, allow_nan=False)
    assert found["per_class"][2]["roc_auc"] == found["per_class"][2]["f1"] == {"value": None, "interval": None}
    assert "1 of" in found["remarks"][0]
    assert "class 2" in found["remarks"][0]
    others = [i for i in range(k) if i != 2]
    if task == "single_label":
        answers = o.scores.argmax(axis=1)
        expected = metrics.f1_score(targets, answers, labels=others, average="macro")
    else:
        expected = metrics.f1_score(targets[:, others], o.scores[:, others] >= 0.5, average="macro")
    assert found["figures"]["macro_f1"]["value"] == pytest.approx(expected)


def test_perfect_scores_have_no_interval_but_that_of_their_share():
    targets = np.arange(20) % 2
    found = analyse(outcome("single_label", targets, 9.0 * np.eye(2)[targets]))
    json.dumps(found, allow_nan=False)
    assert found["figures"]["roc_auc"] == {"value": 1.0, "interval": None}
    assert found["figures"]["accuracy"]["interval"] == pytest.approx([0.8389, 1.0], abs=1e-4)  # 20 / (20 + 1.96²)
    assert found["confused"] == []


def test_one_image_alone():
    found = analyse(outcome("single_label", [1], [[0.0, 1.0]]))
    json.dumps(found, allow_nan=False)
    assert found["figures"]["accuracy"]["value"] == 1
    assert found["figures"]["roc_auc"]["value"] is None
    assert "rough" in " ".join(found["remarks"])
    json.dumps(analyse(outcome("multi_label", [[0, 0]], [[0.0, 1.0]])), allow_nan=False)
    json.dumps(analyse(outcome("regression", [[1.0]], [[0.0]])), allow_nan=False)


def test_temperature_is_of_calibration_alone():
    o = single_label(n=400, temperature=0.3)
    found = analyse(o, resamples=100)
    raw = analyse(dataclasses.replace(o, temperature=1.0), resamples=100)
    assert found["figures"]["accuracy"] == raw["figures"]["accuracy"]
    assert found["calibration"]["before"] == raw["calibration"]["after"]
    assert found["calibration"]["before"]["log_loss"] == pytest.approx(raw["figures"]["log_loss"]["value"])
    assert found["calibration"]["after"]["ece"] == found["figures"]["ece"]["value"]
    assert found["calibration"]["after"]["ece"] > found["calibration"]["before"]["ece"]
    bins = found["calibration"]["before"]["bins"]
    assert sum(b["count"] for b in bins) == 400
    assert sum(b["count"] * b["accuracy"] for b in bins) / 400 == pytest.approx(found["figures"]["accuracy"]["value"])


def test_calibration_error_by_chance_is_that_of_simulated_labels():
    o = single_label(n=400)
    rng = np.random.default_rng(0)
    simulated = []
    for _ in range(100):
        targets = (o.scores.cumsum(axis=1) > rng.random((400, 1))).argmax(axis=1)
        simulated.append(calibration(dataclasses.replace(o, targets=targets))["after"]["ece"])
    assert calibration(o)["after"]["ece_by_chance"] == pytest.approx(np.mean(simulated), rel=0.1)


def test_confused_pairs_and_images_kept():
    # Class 0 is taken for 1 twice, 1 for 2 once; the two most confident are right.
    targets, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 2, 1, 2])
    certainty = np.array([1.0, 2.0, 9.0, 3.0, 8.0, 4.0])
    deviation = np.zeros((6, 3))
    deviation[np.arange(6), predicted] = certainty  # the most certain by one are the least by the other
    found = analyse(outcome("single_label", targets, certainty[:, None] * np.eye(3)[predicted], deviation=deviation))
    pairs = [(pair["true"], pair["predicted"], pair["count"], pair["share"]) for pair in found["confused"]]
    assert pairs == [("class 0", "class 1", 2, 2 / 3), ("class 1", "class 2", 1, 1 / 2)]
    assert found["kept"]["share"] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert found["kept"]["confidence"] == pytest.approx([1, 1, 1, 3 / 4, 3 / 5, 1 / 2])
    assert found["kept"]["deviation"] == pytest.approx([0, 0, 0, 1 / 4, 2 / 5, 1 / 2])


def test_very_large_splits_have_fewer_resamples(monkeypatch):
    monkeypatch.setattr(analysis, "BUDGET", 150 * 5 * 200)
    assert analyse(single_label(n=150, k=5))["interval"]["resamples"] == 200
