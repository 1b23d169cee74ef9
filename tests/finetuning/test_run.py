"""Fine-tuning from a folder of pictures to a model that predicts, as a user runs it."""

import csv
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.finetune import get_config
from tests.conftest import RECORDED_RUN
from xception_jax import evaluate
from xception_jax.cli.prediction_output import prediction_set
from xception_jax.config import default
from xception_jax.data.labelled import open_labelled
from xception_jax.errors import UserError
from xception_jax.evaluation.report import hash_weights
from xception_jax.finetuning import run, soup
from xception_jax.finetuning.measure import measure
from xception_jax.inference.features import FeatureExtractor
from xception_jax.inference.predictor import Predictor
from xception_jax.pretrained import load
from xception_jax.workdir.log import read_log

pytestmark = pytest.mark.usefixtures("one_device")


def settings(weights, data):
    config = default()
    config.image_size = None  # the weights' own
    config.model.weights, config.data.path = str(weights), str(data)
    config.batch_size, config.finetune.conformal_alpha = 16, 0.2
    return config


@pytest.fixture(scope="module")
def finished(one_device, weights_file, digits, tmp_path_factory):
    """A work directory, and the results that were returned."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run.finetune(settings(weights_file, digits), workdir)


def test_the_model_predicts_what_was_reported(finished, digits):
    """By another path: the files are predicted from the model folder."""
    workdir, results = finished
    model = load(workdir / "model")
    files = sorted((digits / "test").rglob("*.png"))
    names = np.array(model.class_names)
    predictions = list(Predictor(model)(files))
    correct = [names[p.scores.argmax()] == f.parent.name for p, f in zip(predictions, files, strict=True)]
    assert results["splits"]["test"]["figures"]["accuracy"]["value"] == pytest.approx(np.mean(correct))
    assert np.mean(correct) > 0.6  # chance is 0.25
    assert model.conformal.alpha == 0.2
    sets = [prediction_set(p, model).split(";") for p in predictions]
    covered = [f.parent.name in classes for f, classes in zip(files, sets, strict=True)]
    test = results["conformal"]["test"]
    assert (test["coverage"], test["mean_size"]) == (np.mean(covered), np.mean([len(classes) for classes in sets]))
    assert json.loads((workdir / "results.json").read_text()) == json.loads(json.dumps(results))


def test_the_config_says_how_images_are_shown_where_it_does(weights_file):
    weights, config = load(weights_file), get_config()
    assert run.shown_as(weights, config) == weights
    config.image_size, config.data.resize, config.data.mean = 48, "pad", (0.1, 0.2, 0.3)
    shown = run.shown_as(weights, config).input
    assert (shown.image_size, shown.resize, shown.normalization.mean) == (48, "pad", (0.1, 0.2, 0.3))
    assert shown.normalization.std == weights.input.normalization.std


def test_predictions_are_listed_with_their_scores(finished):
    workdir, _ = finished
    lines = (workdir / "predictions-test.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 6
    assert lines[0].startswith("file,split,target,predicted,confidence")


def test_prediction_sets_are_of_the_validation_split(finished):
    """24 images and a share of 0.8: the twentieth score of a true class, from the highest on."""
    workdir, results = finished
    with (workdir / "predictions-validation.csv").open() as file:
        scores = sorted((float(row[f"score {row['target']}"]) for row in csv.DictReader(file)), reverse=True)
    assert load(workdir / "model").conformal.threshold == results["conformal"]["threshold"] == scores[19]
    for text in ((workdir / "index.html").read_text(), (workdir / "model" / "README.md").read_text()):
        assert "intended coverage 0.8; on test" in text


def test_a_second_start_computes_no_features(finished, weights_file, digits, monkeypatch, capsys):
    workdir, results = finished
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda *_: pytest.fail("features were computed again"))
    again = run.finetune(settings(weights_file, digits), workdir)
    assert again["splits"] == results["splits"]
    assert ", 0 of them computed now" in capsys.readouterr().out


def test_data_may_move(finished, weights_file, digits, tmp_path):
    workdir, results = finished
    shutil.copytree(workdir, tmp_path / "run")
    moved = shutil.copytree(digits, tmp_path / "digits")
    again = run.finetune(settings(weights_file, moved), tmp_path / "run")
    assert again["splits"] == results["splits"]
    assert open_labelled(tmp_path / "run" / "splits.csv").root == moved


def test_a_run_of_training_is_left_as_it_is(weights_file, digits, tmp_path):
    """Its config.json would be that of fine-tuning, and nothing could be done with the run any more."""
    workdir = shutil.copytree(RECORDED_RUN, tmp_path / "run")
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match="belongs to a run that was trained; use another --workdir"):
        run.finetune(settings(weights_file, digits), workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_weights_of_the_work_directory_are_in_its_model(finished):
    workdir, _ = finished
    with pytest.raises(UserError, match=f"is a work directory of finetune; its model is {workdir}/model"):
        load(workdir)


def test_changed_data_is_refused(finished, weights_file, digits, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    other = shutil.copytree(digits, tmp_path / "digits")
    shutil.copy(next((other / "train").rglob("*.png")), other / "test" / "digit 0" / "new.png")
    with pytest.raises(UserError, match="use another --workdir"):
        run.finetune(settings(weights_file, other), tmp_path / "run")


def unfrozen_with(config, finished, workdir, monkeypatch):
    """The training split and the weights that the unfrozen network is trained from."""
    opened = []

    class Opened(Exception):
        pass

    def train(settings, folder, source):
        opened.extend((source("train"), load(settings.model.weights)))
        raise Opened

    monkeypatch.setattr(run.loop, "train", train)
    shutil.copytree(finished[0] / "features", workdir / "features")
    config.finetune.unfreeze = "block2"
    with pytest.raises(Opened):
        run.finetune(config, workdir)
    return opened


def test_a_part_that_the_network_lacks_is_refused_before_anything_is_computed(
    weights_file, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda *_: pytest.fail("features were computed"))
    config = settings(weights_file, digits)
    config.finetune.unfreeze = "blok2"
    with pytest.raises(UserError, match=r'config\.finetune\.unfreeze is "blok2", .*; did you mean "block2"'):
        run.finetune(config, tmp_path)


def test_balance_holds_for_the_unfrozen_network(finished, weights_file, digits, tmp_path, monkeypatch):
    """A class of which training has a third of the images has as much weight as each other."""
    data = shutil.copytree(digits, tmp_path / "digits")
    few = sorted((data / "train" / "digit 0").iterdir())
    for file in few[: len(few) * 2 // 3]:
        file.unlink()
    config = settings(weights_file, data)
    config.finetune.balance = True
    source, _ = unfrozen_with(config, finished, tmp_path / "run", monkeypatch)
    labels = np.array([source[i][1] for i in range(len(source))])
    shares = np.bincount(labels, source.weights)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
    assert np.bincount(labels)[0] < np.bincount(labels)[1]


@pytest.mark.slow
def test_an_unfrozen_network_is_kept_if_it_is_better(weights_file, digits, tmp_path):
    """What is kept is what the validation split says, and what is before the part keeps its weights."""
    config = settings(weights_file, digits)
    config.finetune.unfreeze = "block2"
    config.num_steps, config.learning_rate, config.optimizer.name = 6, 0.003, "adamw"
    config.model.bn_momentum, config.data.flip, config.data.crop_area = 0.9, False, (0.7, 1.0)
    config.schedule.name, config.average_decay, config.evaluation.every = "constant", 0.0, "2 steps"
    config.finetune.average_best, config.checkpoint.keep_last = 2, 1
    config.checkpoint.best_metric = "loss"
    results = run.finetune(config, tmp_path)
    losses = {name: found["validation_loss"] for name, found in results["candidates"].items()}
    assert set(losses) == {"frozen", "unfrozen from block2", "unfrozen from block2, average of the 2 best"}
    assert results["chosen"] == min(losses, key=losses.get)
    kept = load(tmp_path / "model").weights.params["block1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kept, load(weights_file).weights.params["block1"]["conv1"]["kernel"])
    records = [r for r in read_log(tmp_path / "unfrozen") if r["kind"] == "evaluation"]
    steps = [r["step"] for r in sorted(records, key=lambda r: r["loss"])[:2]]
    a, b = (load(f"{tmp_path / 'unfrozen'}@{step}").weights.params["head"]["logits"]["kernel"] for step in steps)
    found = soup.averaged(soup.best(tmp_path / "unfrozen", 2)).weights.params["head"]["logits"]["kernel"]
    np.testing.assert_allclose(found, (a + b) / 2, rtol=1e-6)
    assert np.abs(a - b).max() > 1e-4


def test_weights_are_measured_on_any_labelled_images(finished, digits, tmp_path):
    """The model on the run's own test folder, without its splits: the same accuracy, by names of classes."""
    workdir, results = finished
    measure(load(workdir / "model"), digits / "test", "test", tmp_path, 16)
    record = json.loads((tmp_path / "results.json").read_text())
    # Machines round differently, and a score may be at the threshold.
    assert record["conformal"]["test"]["coverage"] == pytest.approx(results["conformal"]["test"]["coverage"], abs=0.05)
    found = record["splits"]["test"]["figures"]
    assert found["accuracy"] == results["splits"]["test"]["figures"]["accuracy"]
    assert found["log_loss"]["value"] == pytest.approx(results["splits"]["test"]["figures"]["log_loss"]["value"], 1e-3)


def test_images_that_the_weights_were_trained_on_are_told(finished, digits, tmp_path, capsys):
    model = load(finished[0] / "model")
    measure(model, digits, "test", tmp_path / "test", 16)
    assert "too good" not in capsys.readouterr().out
    measure(model, digits, "train", tmp_path / "train", 16)
    said = "80 of these 80 images are among those that the weights were trained or chosen on"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "train" / "index.html").read_text()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.columns.labl=x", 'did you mean "data.columns.label"'),
        ("--config.batch_size=3", "no setting config.batch_size"),
    ],
)
def test_a_setting_that_measuring_does_not_have_is_one_line(monkeypatch, flag, message):
    monkeypatch.setattr(sys, "argv", ["evaluate", flag])
    with pytest.raises(UserError, match=message):
        evaluate.check_keys(["data.columns.label", "data.data_dir"])


def test_a_network_chooses_among_the_classes_of_the_data(finished, digits, tmp_path):
    """The scores of the others are left out; what remains adds up to 1."""
    data = shutil.copytree(digits / "test", tmp_path / "data")
    for name in ("digit 0", "digit 2"):
        shutil.rmtree(data / name)
    model = load(finished[0] / "model")
    measure(model, data, "test", tmp_path, 16, only_present=True)
    files = sorted(data.rglob("*.png"))
    scores = {str(f.relative_to(data)): p.scores[[1, 3]] for f, p in zip(files, Predictor(model)(files), strict=True)}
    with (tmp_path / "predictions-test.csv").open() as file:
        rows = {row["file"]: [float(row["score digit 1"]), float(row["score digit 3"])] for row in csv.DictReader(file)}
    assert rows.keys() == scores.keys()
    for name, found in rows.items():
        np.testing.assert_allclose(found, scores[name] / scores[name].sum(), atol=1e-4)
    assert json.loads((tmp_path / "results.json").read_text())["weights_hash"] == hash_weights(model.weights)


def test_classes_that_the_weights_do_not_have_are_refused(finished, tmp_path):
    for name in ("digit 1", "cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / name / "1.png"), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="does not have 1 of the 2 classes of the data: cat"):
        measure(load(finished[0] / "model"), tmp_path / "data", "test", tmp_path, 16)


@pytest.mark.slow
def test_uncertainty_is_that_of_predict(weights_file, digits, tmp_path):
    """Means and deviations over dropout masks, as the predictor draws them from the files."""
    config = settings(weights_file, digits)
    config.finetune.uncertainty, config.finetune.head = True, "dropout 0.2, dense 32 relu, dropout 0.2"
    results = run.finetune(config, tmp_path)
    assert results["thresholds"]["splits"]["test"]["images"]["count"] == 24
    with (tmp_path / "predictions-test.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for prediction in Predictor(load(tmp_path / "model"), batch_size=5)([digits / name for name in rows]):
        row, best = rows[str(Path(prediction.file).relative_to(digits))], prediction.scores.argmax()
        assert prediction.scores[best] == pytest.approx(float(row["confidence"]), abs=1e-4)
        assert prediction.uncertainty[best] == pytest.approx(float(row["deviation"]), abs=1e-4)


def test_uncertainty_without_dropout_is_refused(weights_file, digits, tmp_path):
    config = settings(weights_file, digits)
    config.finetune.uncertainty = True
    with pytest.raises(UserError, match="needs dropout in the head"):
        run.finetune(config, tmp_path)


@pytest.fixture(scope="module")
def tables(digits, tmp_path_factory):
    """Of the digits, a table of several labels, and one of a number."""
    root = tmp_path_factory.mktemp("tables")
    several, number = ["file,split,labels"], ["file,split,target"]
    for file in sorted(digits.rglob("*.png")):
        value = int(file.parent.name[-1])
        labels = "|".join(name for bit, name in enumerate(("odd", "above one")) if value >> bit & 1)
        several.append(f"{file},{file.parent.parent.name},{labels}")
        number.append(f"{file},{file.parent.parent.name},{1000 * value + 50_000.5}")
    for name, lines in (("several.csv", several), ("number.csv", number)):
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def test_numbers_of_any_size_are_trained_alike(finished, weights_file, tables, tmp_path, monkeypatch):
    """50,000 to 53,000 here; the head that training starts from is of the same scale."""
    config = settings(weights_file, tables / "number.csv")
    config.finetune.conformal_alpha = None
    source, start = unfrozen_with(config, finished, tmp_path / "run", monkeypatch)
    targets = np.stack([source[i][1] for i in range(len(source))])
    np.testing.assert_allclose((targets.mean(), targets.std()), (0, 1), atol=1e-4)
    files = [Path(source.example_id(i)) for i in range(len(source))]
    predicted = np.stack([p.scores for p in Predictor(start)(files)])
    assert np.abs(predicted).max() < 5
    assert np.corrcoef(predicted[:, 0], targets[:, 0])[0, 1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("table", "figure"), [("several.csv", "macro_average_precision"), ("number.csv", "r2")])
def test_other_tasks_are_unfrozen_from_the_fitted_head(weights_file, tables, tmp_path, table, figure):
    """A step of a rate of 0 leaves the network as it was: the loop, and what it is measured by, agree with the head."""
    config = settings(weights_file, tables / table)
    config.finetune.conformal_alpha = None
    config.finetune.unfreeze, config.num_steps, config.learning_rate = "block14", 1, 0.0
    config.schedule.name, config.average_decay, config.fixed_statistics = "constant", 0.0, True
    results = run.finetune(config, tmp_path)
    frozen, unfrozen = (found["validation_loss"] for found in results["candidates"].values())
    assert unfrozen == pytest.approx(frozen, rel=1e-3)
    assert results["splits"]["test"]["figures"][figure]["value"] > results["splits"]["test"]["baseline"][figure] + 0.1
    logged = [json.loads(line) for line in (tmp_path / "unfrozen" / "log.jsonl").read_text().splitlines()]
    assert figure in next(record for record in logged if record["kind"] == "evaluation")
    for text in ((tmp_path / "index.html").read_text(), (tmp_path / "model" / "README.md").read_text()):
        assert ("the temperature" in text) == (table == "several.csv")
        assert ("numbers = model(" in text) == (table == "number.csv")
    again = tmp_path / "again"
    measure(load(tmp_path / "model"), tables / table, "test", again, 16)
    found = json.loads((again / "results.json").read_text())["splits"]["test"]["figures"]
    assert found[figure]["value"] == pytest.approx(results["splits"]["test"]["figures"][figure]["value"], abs=1e-3)


def test_data_that_cannot_be_read_leave_no_work_directory(weights_file, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        run.finetune(settings(weights_file, tmp_path / "missing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", ["several.csv", "number.csv"])
def test_prediction_sets_are_for_one_class_of_several(weights_file, tables, tmp_path, table):
    with pytest.raises(UserError, match="conformal_alpha is for one class per image, but this is"):
        run.finetune(settings(weights_file, tables / table), tmp_path)


@pytest.mark.parametrize("table", ["several.csv", "number.csv"])
def test_data_for_another_task_than_the_weights_is_one_line(finished, tables, tmp_path, table):
    name = {"several.csv": "multi_label", "number.csv": "regression"}[table]
    with pytest.raises(UserError, match=rf"{table} is for {name}: .* has softmax scores, for one class of several"):
        measure(load(finished[0] / "model"), tables / table, "test", tmp_path, 16)
