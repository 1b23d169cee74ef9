"""A work directory that version 0.1.0 wrote is evaluated, resumed and used for predictions by later versions, too.

`fixtures/run_0.1.0` is what

    JAX_PLATFORMS=cpu python -m xception_jax.main --config=configs/quickstart.py --config.num_steps=12 \\
        --config.model.width=0.01 --config.model.middle_blocks=0 --config.schedule.warmup='0 steps' \\
        --config.checkpoint.every='6 steps' --config.evaluation.every='6 steps' --workdir=run_0.1.0

left at version 0.1.0, without TensorBoard's files, curves.png, lock and status.json, and with relative paths in the
files `commit_success.txt`, which nothing reads. It is 0.7 MB: two thirds are Orbax's descriptions of each array, which
the checkpoints' hashes cover. It is never made anew.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import RECORDED_RUN as RUN
from tests.conftest import SMALL_RUN
from xception_jax import config as config_lib
from xception_jax import experiment
from xception_jax.config import default
from xception_jax.data.sources.builtin import Digits
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.models.cards import usual_input
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained
from xception_jax.training import loop
from xception_jax.workdir.log import read_log

ROOT = Path(__file__).resolve().parent.parent
CONFIG = [*SMALL_RUN, "--config.checkpoint.every=6 steps", "--config.evaluation.every=6 steps"]
KEPT = ("model", "num_parameters", "step", "weights_hash", "averaged", "split", "count")


@pytest.fixture
def workdir(tmp_path):
    return shutil.copytree(RUN, tmp_path / "run")


def command(name, *arguments):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    line = [sys.executable, "-m", f"xception_jax.{name}", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_evaluation_gives_the_recorded_figures(workdir):
    recorded, before = report.read(RUN)
    command("main", "--mode=evaluate", f"--workdir={workdir}")
    record, after = report.read(workdir)
    assert record["date"] != recorded["date"]
    assert [record[key] for key in KEPT] == [recorded[key] for key in KEPT]
    assert after.ids == before.ids
    # Machines round differently, and two classes may be nearly as probable.
    assert np.mean(after.top5[:, 0] == before.top5[:, 0]) > 0.98
    np.testing.assert_allclose(after.loss, before.loss, atol=1e-3)


def test_training_goes_on_from_its_checkpoint(workdir):
    """From step 6, as if killed thereafter, to the end that was recorded."""
    shutil.rmtree(workdir / "checkpoints" / "12")
    assert "Resuming from step 6." in command("main", *CONFIG, f"--workdir={workdir}")
    before, after = (
        [line["loss"] for line in read_log(folder) if line["kind"] in ("train", "evaluation") and line["step"] == 12]
        for folder in (RUN, workdir)
    )
    assert after == pytest.approx(before, abs=1e-2)  # another batch's loss differs by several times as much
    assert report.read(workdir)[0]["step"] == 12


@pytest.mark.slow
def test_training_can_be_made_longer(workdir):
    """Its schedule is a cosine of 12 steps, at whose end the rate is 0; of 18, three quarters are left at step 6."""
    said = command("main", *CONFIG, "--config.num_steps=18", f"--workdir={workdir}")
    assert "Resuming from step 12." in said
    assert "training lasts 18 steps, not 12 as before; the cosine schedule follows the new length: at step 12" in said
    assert report.read(workdir)[0]["step"] == 18


class ReadyError(Exception):
    """The run was accepted."""


def test_a_run_that_began_with_keras_weights_goes_on(tiny, tmp_path, monkeypatch):
    """It cropped, as all did; today the same weights say that images are squashed."""

    def ready(recipe, checkpoints):
        raise ReadyError(recipe.experiment.config.data.resize)

    monkeypatch.setattr(loop, "ready", ready)
    keras = Pretrained("x.h5", "xception", {}, 4, Weights({}, {}), usual_input("keras", "xception"))
    monkeypatch.setattr(experiment, "load", lambda *_, **__: keras)
    tiny.model.weights = "x.h5"
    with pytest.raises(ReadyError, match="squash"):
        loop.train(tiny, tmp_path / "new")
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    del written["schema"], written["data"]["resize"], written["model"]["head"]
    (tmp_path / "old" / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "old" / "config.json").write_text(json.dumps(written))
    with pytest.raises(ReadyError, match="crop"):
        loop.train(tiny, tmp_path / "old")
    tiny.data.resize = "squash"
    with pytest.raises(UserError, match=r"data\.resize: crop -> squash"):
        loop.train(tiny, tmp_path / "old")


def test_predictions_come_from_it(workdir, tmp_path):
    """The classes of test digits, and how probable they are, as recorded."""
    _, recorded = report.read(RUN)
    pictures = [tmp_path / f"{i}.png" for i in range(5)]
    digits = Digits("test")
    for i, picture in enumerate(pictures):
        assert digits.example_id(i) == recorded.ids[i]
        cv2.imwrite(str(picture), digits[i][0])
    command("predict", f"--weights={workdir}", *pictures, "--top=1", f"--output={tmp_path / 'table.csv'}")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["class_name"]) for row in rows] == recorded.top5[:5, 0].tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(recorded.confidence[:5], abs=1e-3)


def test_a_task_that_an_earlier_config_left_open_is_one_class_per_image(tmp_path):
    """Between 0.1.0 and 0.2.0 `task` was `finetune.task`, and runs were of one class per image."""
    written = default().to_dict()
    written["finetune"]["task"] = None
    for name in ("task", "loss", "label_weights", "mixup"):
        del written[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"schema": 2, **written}))
    config = config_lib.read(path)
    assert (config.task, config.loss) == ("single_label", "cross_entropy")
