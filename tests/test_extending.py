"""docs/extending.md: a stranger's network, data set, loss, metric, augmentation, optimizer and settings, in a folder of
their own outside the package, train, are killed, resume, evaluate, predict and plan."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from xception_jax.workdir.log import read_log

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "extending.md"
MOST_LINES = 30  # of an example


def examples():
    return dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENT.read_text(), flags=re.S))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for name, text in examples().items():
        (folder / name).write_text(text)
    return folder


def start(folder, *command):
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(folder, *command, code=0):
    process = start(folder, *command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


MAIN = ("-m", "xception_jax.main", "--config=config.py", "--workdir=run", "--config.model.channels=16")


@pytest.fixture(scope="module")
def trained(folder):
    """A run that was killed after its first checkpoint and started again; what it said the second time."""
    process = start(folder, *MAIN)
    said = []
    for line in process.stdout:  # the save of step 10 is over before that of step 20 begins
        said.append(line)
        if line.startswith("step 25/"):
            break
    process.kill()
    process.communicate()
    assert said[-1].startswith("step 25/"), "".join(said)
    return run(folder, *MAIN)


def test_examples_are_short():
    lengths = {name: len(text.strip().splitlines()) for name, text in examples().items()}
    assert len(lengths) == 8
    assert max(lengths.values()) <= MOST_LINES, lengths


def test_a_killed_run_resumes_and_learns(folder, trained):
    assert "Resuming from step" in trained
    steps = [r["step"] for r in read_log(folder / "run") if r["kind"] == "train"]
    assert steps == list(range(5, 41, 5))
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["metrics"]["top1"] > 0.9  # horizontal and vertical stripes
    assert results["metrics"]["margin"] > 0
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["model"]["channels"], config["data"]["period"], config["user"]["gamma"]) == (16, 4, 2.0)


def test_the_loss_is_theirs(folder, trained):
    """Focal loss is cross-entropy times a factor below one: recomputed from what was recorded of each example."""
    record = json.loads((folder / "run" / "evaluation-test.json").read_text())
    columns = np.load(folder / "run" / record["predictions"]["file"])
    right = columns["top5"][:, 0] == columns["labels"]
    p = np.where(right, columns["confidence"], 1 - columns["confidence"]).astype(np.float64)  # of two classes
    np.testing.assert_allclose(columns["loss"], -((1 - p) ** 2) * np.log(p), rtol=1e-3, atol=1e-6)
    assert columns["metric/margin"].shape == p.shape
    np.testing.assert_allclose(columns["metric/margin"], np.log(p / (1 - p)), rtol=1e-3, atol=1e-4)


def test_it_is_evaluated_and_predicted_from(folder, trained):
    said = run(folder, "-m", "xception_jax.main", "--mode=evaluate", "--workdir=run")
    assert "margin" in said
    (folder / "images").mkdir()
    stripes = np.broadcast_to(200 * (np.arange(24) // 4 % 2).astype(np.uint8)[:, None, None], (24, 24, 3))
    for name, image in (("horizontal", stripes), ("vertical", stripes.swapaxes(0, 1))):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
    run(
        folder, "-m", "xception_jax.predict", "--weights=run", "images", "--top=1", "--output=out.csv", "--explain=heat"
    )
    rows = (folder / "out.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == ["horizontal", "vertical"]
    assert len(list((folder / "heat").iterdir())) == 2


@pytest.mark.slow
def test_it_is_planned(folder):
    assert "on cpu:2" in run(folder, "-m", "xception_jax.plan", "--config=config.py", "--topology=cpu:2")


def test_from_python(folder):
    """A notebook's process goes on after training, and its signal handlers are what they were."""
    check = "import signal; before = signal.getsignal(signal.SIGTERM); exec(open('notebook.py').read()); "
    said = run(folder, "-c", check + "assert signal.getsignal(signal.SIGTERM) is before; print('goes on')")
    assert "('horizontal', 'vertical')" in said
    config = json.loads((folder / "run_from_python" / "config.json").read_text())
    assert (config["data"]["name"], config["loss"]) == ("__main__:<lambda>", "objectives:focal")
    trained, evaluated = (ast.literal_eval(line) for line in said.splitlines() if line.startswith("{"))
    assert {name: evaluated[name] for name in trained} == pytest.approx(trained)
    assert said.splitlines()[-1] == "goes on"
    assert "WARNING" not in said


@pytest.mark.slow
def test_own_loop(folder):
    """Losses fall on images whose brightness tells their class."""
    losses = [float(line.split()[1]) for line in run(folder, "loop.py").splitlines()[:5]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.chanels=3", 'the config has no key "model.chanels"; did you mean "model.channels"?'),
        ("--config.model.name=network:Smal", "network has no Smal; did you mean"),
        ("--config.model.name=nettwork:Small", "cannot be imported: no module nettwork"),
        ("--config.model.name=objectives:focal", "objectives:focal"),
        (
            "--config.metrics=('objectives:focal','objectives:focal')",
            'would be reported as "focal", which is already used',
        ),
    ],
)
def test_mistakes_end_in_one_line(folder, flag, message):
    said = run(folder, "-m", "xception_jax.main", "--config=config.py", "--workdir=none", flag, code=2)
    (line,) = said.splitlines()
    assert line.startswith("error: ")
    assert message in line
