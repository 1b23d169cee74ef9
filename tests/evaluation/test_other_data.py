"""A run, evaluated on data that asks something else of it: fewer classes, or several right ones."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from tests.conftest import RECORDED_RUN
from xception_jax import config
from xception_jax.data.sources.builtin import Digits
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.run import evaluate_run
from xception_jax.inference.predictor import Predictor
from xception_jax.pretrained import load

pytestmark = pytest.mark.usefixtures("one_device")
FEW = ("3", "5", "8")
SEVERAL = {"task": "multi_label", "loss": None, "checkpoint__best_metric": None}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Images of three of the ten digits, as test/DIGIT/NUMBER.png, and the run's scores of each, by file."""
    root, source = tmp_path_factory.mktemp("digits"), Digits("test")
    for i in range(len(source)):
        image, label = source[i]
        if (name := source.class_names[label]) in FEW:
            (root / "test" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "test" / name / f"{i}.png"), image[..., ::-1])
    predictions = Predictor(load(f"{RECORDED_RUN}@last"), batch_size=8)(sorted(root.rglob("*.png")))
    return root, {str(Path(p.file).relative_to(root)): p.scores for p in predictions}


@pytest.fixture
def evaluate(tmp_path):
    """Evaluates a copy of the run with settings changed, and returns certificate and predictions."""

    def run(**changed):
        workdir = shutil.copytree(RECORDED_RUN, tmp_path / "run")
        before = set(workdir.glob("evaluation-*.json"))
        asked = config.read(workdir / "config.json")
        asked.update_from_flattened_dict({name.replace("__", "."): value for name, value in changed.items()})
        record = evaluate_run(workdir, asked)
        (written,) = set(workdir.glob("evaluation-*.json")) - before
        assert written == report.path_of(workdir, record["name"])
        return report.read(written)

    return run


@pytest.mark.parametrize("only_present", [False, True])
def test_a_network_chooses_among_the_classes_that_the_split_has(digits, evaluate, only_present):
    root, scores = digits
    record, predictions = evaluate(data__name="folder", data__path=str(root), evaluation__only_present=only_present)
    present = np.isin(np.arange(10), [int(name) for name in FEW])
    allowed = present if only_present else np.ones(10, bool)
    labels = [int(Path(name).parent.name) for name in predictions.ids]
    chosen = predictions.top5[:, 0]
    expected = [np.where(allowed, scores[name], -1).argmax() for name in predictions.ids]
    assert np.mean(chosen == expected) > 0.98  # machines round differently, and two classes may be nearly as probable
    assert present[chosen].all() == only_present
    assert record["metrics"]["top1"] == accuracy_score(labels, chosen)
    right = [scores[name][k] / scores[name][allowed].sum() for name, k in zip(predictions.ids, labels, strict=True)]
    np.testing.assert_allclose(predictions.loss, -np.log(right), atol=2e-3)


def test_any_label_of_several_is_right(digits, evaluate):
    """ReaL's rule, and images without labels are left out."""
    root, scores = digits
    usual = np.bincount([found.argmax() for found in scores.values()]).argmax()
    labels = {name: [[], ["3", str(usual)], ["5"]][i % 3] for i, name in enumerate(scores)}
    table = root / "several.csv"
    table.write_text("file,tags,split\n" + "".join(f"{name},{'|'.join(tags)},test\n" for name, tags in labels.items()))
    record, _ = evaluate(data__name="table", data__path=str(table), **SEVERAL)
    hits = [str(scores[name].argmax()) in tags for name, tags in labels.items() if tags]
    assert 0.2 < np.mean(hits) < 0.8
    assert record["metrics"]["precision_at_1"] == pytest.approx(np.mean(hits), abs=0.02)


def test_only_present_is_for_one_class_of_several(digits, evaluate):
    with pytest.raises(UserError, match="only_present is for single_label, but the task is multi_label"):
        evaluate(**SEVERAL, evaluation__only_present=True)
