"""Runs on several labels and on numbers: training, evaluation, certificate, comparison and prediction."""

import json
import sys

import cv2
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from tests.conftest import tiny_run
from xception_jax import config, experiment
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.comparison import compare
from xception_jax.evaluation.evaluator import Evaluator
from xception_jax.evaluation.run import evaluate_run
from xception_jax.inference.predictor import Predictor
from xception_jax.pretrained import load
from xception_jax.tasks.task import in_words
from xception_jax.training import loop, recipe, summary

pytestmark = pytest.mark.usefixtures("one_device")
CLASSES = ("bright", "left", "red")


def picture(i: int) -> np.ndarray:
    """Bright or dark, brighter on the left or not, red or not, by the bits of i, with noise."""
    image = np.random.default_rng(i).integers(0, 60, (32, 32, 3)).astype(np.uint8)
    image += np.uint8(100 * (i & 1))
    image[:, :16] += np.uint8(60 * (i >> 1 & 1))
    image[..., 0] += np.uint8(30 * (i >> 2 & 1))
    return image


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder of pictures, with a table of several labels and one of two numbers."""
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(60):
        cv2.imwrite(str(root / f"{i}.png"), picture(i)[..., ::-1])
        split = "train" if i < 36 else "validation" if i < 44 else "test"
        tags = "|".join(name for bit, name in enumerate(CLASSES) if i >> bit & 1)
        rows.append((f"{i}.png", split, tags, 0.5 * (i & 1) + i % 3, i / 60))
    several = "".join(f"{file},{split},{tags}\n" for file, split, tags, *_ in rows)
    (root / "several.csv").write_text("file,split,tags\n" + several)
    numbers = "".join(f"{file},{split},{a},{b}\n" for file, split, _, a, b in rows)
    (root / "numbers.csv").write_text("file,split,a,b\n" + numbers)
    (root / "number.csv").write_text("file,split,target\n" + "".join(f"{f},{s},{b}\n" for f, s, _, _, b in rows))
    return root


def settings(path):
    c = tiny_run()
    c.data.name, c.data.path, c.data.test_split = "table", str(path), "test"
    c.data.crop_area = (1.0, 1.0)
    c.model.dropout = 0.0
    return c


@pytest.fixture(scope="module")
def several(one_device, tables, tmp_path_factory):
    """A run on several labels, and its results."""
    workdir, weights = tmp_path_factory.mktemp("several"), tables / "weights.csv"
    weights.write_text("class,weight\nred,3\nleft,0\nbright,1\nother,9\n")
    c = settings(tables / "several.csv")
    c.evaluation.class_weights = c.label_weights = str(weights)
    c.label_smoothing, c.optimizer.accumulate_steps = 0.1, 2
    return workdir, loop.train(c, workdir)


def test_several_labels_are_trained_and_measured(several):
    """Figures of the certificate are scikit-learn's of the same scores."""
    workdir, results = several
    record, predictions = report.read(workdir)
    targets, logits = predictions.labels, predictions.logits
    assert targets.shape == (16, 3)
    for name, label in zip(predictions.ids, targets, strict=True):
        assert label.tolist() == [int(name[:-4]) >> bit & 1 for bit in range(3)]
    scores = special.expit(logits.astype(np.float64))
    for average in ("macro", "micro"):
        expected = sklearn_metrics.average_precision_score(targets, scores, average=average)
        assert record["metrics"][f"{average}_average_precision"] == pytest.approx(expected)
        low, high = record["metrics"][f"{average}_average_precision_interval"]
        assert low < expected < high
    labelled = targets.any(axis=1)
    expected = sklearn_metrics.label_ranking_average_precision_score(targets[labelled], scores[labelled])
    assert record["metrics"]["map_at_100"] == pytest.approx(expected)
    entropy = -(targets * np.log(scores) + (1 - targets) * np.log(1 - scores)).mean()
    assert record["metrics"]["loss"] == pytest.approx(entropy, rel=1e-5)
    assert record["metrics"]["weighted_map_at_100"] != record["metrics"]["map_at_100"]
    assert (record["task"], record["count"], len(record["per_class"])) == ("multi_label", 16, 3)
    assert results["metrics"]["map_at_100"] == record["metrics"]["map_at_100"]
    assert "MAP@100 0." in in_words(results["metrics"])


def test_a_run_says_what_it_was(several):
    """Its task, loss and best figure are in its config; log and curves have the figures of its task."""
    workdir, _ = several
    config = json.loads((workdir / "config.json").read_text())
    assert (config["task"], config["loss"]) == ("multi_label", "binary_cross_entropy")
    assert config["checkpoint"]["best_metric"] == "map_at_100"
    records = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    assert all(0 <= r["map_at_100"] <= 1 for r in records if r["kind"] in ("train", "evaluation"))
    assert all("macro_average_precision" in r for r in records if r["kind"] == "evaluation")
    assert (workdir / "curves.png").stat().st_size > 10_000


def test_scores_of_a_run_are_those_of_each_label(several, tables):
    """The predictor, from the work directory alone, has the scores of the certificate."""
    workdir, _ = several
    predictions = report.read(workdir)[1]
    model = load(f"{workdir}@last")
    assert (model.scores, model.class_names) == ("sigmoid", CLASSES)
    found = {
        p.file.rpartition("/")[2]: p.scores
        for p in Predictor(model, batch_size=8)([tables / i for i in predictions.ids])
    }
    expected = special.expit(predictions.logits)
    np.testing.assert_allclose(np.stack([found[i] for i in predictions.ids]), expected, atol=1e-4)


def test_evaluation_does_not_need_the_weights_of_the_training_loss(several, monkeypatch):
    """Nor does it mind where their table is now."""
    workdir, _ = several
    moved = config.read(workdir / "config.json")
    moved.label_weights = "moved/weights.csv"
    created = []
    monkeypatch.setattr(Evaluator, "__init__", lambda self, run, *_: created.append(run) or sys.exit())
    with pytest.raises(SystemExit):
        evaluate_run(workdir, moved)
    assert created[0].label_weights is None
    assert created[0].class_weights == (1, 0, 3)


def test_runs_on_several_labels_are_compared(several, tmp_path):
    """With one whose logits are noisier, and whose examples are in another order."""
    a, b = several[0], tmp_path
    record, predictions = report.read(a)
    other = predictions.rows(np.random.default_rng(0).permutation(len(predictions.ids)))
    other.logits += np.random.default_rng(1).normal(size=other.logits.shape).astype(np.float32)
    report.write(b, record | other.report("test", list(CLASSES))[0], other)
    result = compare(a, b)
    left, right = (report.read(side)[0]["metrics"] for side in (a, b))
    assert result["difference"] == pytest.approx(right["map_at_100"] - left["map_at_100"])
    for name, found in result["differences"].items():
        assert found["value"] == pytest.approx(right[name] - left[name])
        assert found["interval"] is None or found["interval"][0] <= found["value"] <= found["interval"][1]
    assert compare(b, a)["difference"] == pytest.approx(-result["difference"])
    same = compare(a, a)
    assert (same["p_value"], same["difference"], same["classes"]) == (1.0, 0.0, [])
    assert same["verdict"].startswith("No significant difference")


@pytest.mark.slow
def test_a_run_on_numbers(tables, tmp_path):
    c = settings(tables / "numbers.csv")
    c.data.columns.label = "a,b"
    results = loop.train(c, tmp_path)
    record, predictions = report.read(tmp_path)
    targets, values = predictions.labels, predictions.logits
    assert [c["name"] for c in record["per_class"]] == ["a", "b"]
    np.testing.assert_allclose(targets[:, 1], [int(i[:-4]) / 60 for i in predictions.ids], rtol=1e-6)
    assert record["metrics"]["r2"] == pytest.approx(sklearn_metrics.r2_score(targets, values))
    assert record["metrics"]["loss"] == pytest.approx(sklearn_metrics.mean_squared_error(targets, values), rel=1e-5)
    assert results["metrics"].keys() == {"r2", "mae", "rmse", "pearson", "spearman", "loss"}
    assert load(tmp_path).scores == "linear"
    assert compare(tmp_path, tmp_path)["figure"] == "mae"


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("several.csv", {"loss": "cross_entropy"}, 'single_label, but the task is multi_label.* binary_cross_entropy$'),
        ("several.csv", {"loss": "squared_error"}, "which is for regression"),
        ("several.csv", {"checkpoint.best_metric": "top1"}, 'unknown config.checkpoint.best_metric "top1"'),
        ("several.csv", {"checkpoint.best_metric": "map_at_10"}, 'did you mean "map_at_100"'),
        ("several.csv", {"task": "multilabel"}, 'unknown config.task "multilabel"; did you mean "multi_label"'),
        ("several.csv", {"label_weights": "absent.csv"}, "config.label_weights: there is no table .*absent.csv"),
        ("number.csv", {"evaluation.class_weights": "weights.csv"}, "is for multi_label, but the task is regression"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_one_line(tables, tmp_path, table, changes, message):
    from xception_jax import experiment

    c = settings(tables / table)
    c.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message) as error:
        experiment.create(c)
    assert "\n" not in str(error.value)


def test_a_number_is_no_class(tables, capsys):
    summary.show(recipe.create_recipe(experiment.create(settings(tables / "number.csv"))))
    assert "xception, 32 px, 1 number" in capsys.readouterr().out
