"""The command, as users call it."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.conftest import SMALL_RUN
from xception_jax.data.sources.builtin import Digits
from xception_jax.evaluation import report

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "xception_jax.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/xceptoin.py"],
            'error: there is no config file configs/xceptoin.py; did you mean "configs/xc',
        ),
        (["--config=README.md"], "error: there is no config file README.md; choose from: configs/finetune.py"),
        ([*SMALL_RUN, "--workdir=README.md"], "README.md cannot be used"),
        ([*SMALL_RUN, "--config.lerning_rate=1"], 'has no key "lerning_rate"; did you mean "learning_rate"?'),
        ([*SMALL_RUN, "--config.learning_rate=fast"], "could not convert string to float: 'fast'"),
        ([*SMALL_RUN, "--workdri=x"], "Did you mean: workdir"),
        ([*SMALL_RUN, "--mode=trian"], 'unknown --mode "trian"; did you mean "train"?'),
        ([], "give an experiment, such as --config=configs/quickstart.py"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message):
    result = command(*arguments)
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == 2
    assert len(lines) == 1, result.stderr
    assert message in lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    result = command(*SMALL_RUN, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_training_leaves_its_files(trained):
    workdir, output = trained
    results = json.loads((workdir / "results.json").read_text())
    certificate = json.loads((workdir / "evaluation-test.json").read_text())
    assert results["step"] == 12
    assert results["count"] == certificate["count"] == certificate["split_size"] == 360
    assert results["metrics"]["top1"] == certificate["metrics"]["top1"]
    assert output.splitlines()[-1].startswith("done: xception, step 12, split test (360 images)")
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").iterdir())


@pytest.mark.slow
def test_digits_are_learnt(tmp_path):
    """By a network of few channels, in five epochs: nine of ten of the test split, where chance is one."""
    flags = [
        "--config.num_epochs=5",
        "--config.model.width=0.1",
        "--config.model.middle_blocks=0",
        "--config.average_decay=0.9",
        "--config.evaluation.every=5 epochs",
    ]
    result = command(
        "--config=configs/quickstart.py", *flags, f"--workdir={tmp_path}", JAX_DISABLE_MOST_OPTIMIZATIONS="0"
    )
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert record["count"] == 360
    assert record["metrics"]["top1"] > 0.9


def test_evaluation_of_the_work_directory_gives_the_same(trained):
    workdir, _ = trained
    before = json.loads((workdir / "evaluation-test.json").read_text())
    result = command("--mode=evaluate", "--step=best", f"--workdir={workdir}")
    assert (result.returncode, result.stderr) == (0, "")
    after = json.loads((workdir / "evaluation-test.json").read_text())
    for key in ("metrics", "weights_hash", "preprocessing", "per_class"):
        assert after[key] == before[key]


def test_a_folder_with_some_of_the_classes_is_evaluated_by_their_names(trained, tmp_path):
    """Without a training split: digits that the run was tested on, as files."""
    workdir, folder = shutil.copytree(trained[0], tmp_path / "run"), tmp_path / "pictures"
    digits, counts = Digits("test"), collections.Counter()
    for image, label in (digits[i] for i in range(len(digits))):
        if label in (3, 7):
            counts[str(label)] += 1
            path = folder / "test" / str(label) / f"{counts[str(label)]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    before = {c["name"]: c for c in json.loads((workdir / "evaluation-test.json").read_text())["per_class"]}
    others = ["--config.data.name=folder", f"--config.data.path={folder}"]
    result = command("--mode=evaluate", *SMALL_RUN, *others, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    (other,) = workdir.glob("evaluation-test-pictures-*.json")
    for found in json.loads(other.read_text())["per_class"]:
        assert found["count"] == counts[found["name"]]
        assert found["correct"] == (before[found["name"]]["correct"] if found["count"] else 0)


def test_evaluation_seen_otherwise_leaves_the_run_s_own(trained):
    workdir, _ = trained
    before = (workdir / "evaluation-test.json").read_bytes()
    result = command("--mode=evaluate", *SMALL_RUN, "--config.data.resize=pad", f"--workdir={workdir}")
    assert (result.returncode, result.stderr) == (0, "")
    assert (workdir / "evaluation-test.json").read_bytes() == before
    (other,) = workdir.glob("evaluation-test-digits-*.json")
    assert result.stdout.splitlines()[-1] == f"not what the run evaluates: see {other}"
    name = other.stem.removeprefix("evaluation-")
    assert report.read(workdir, name)[0]["config"]["data"]["resize"] == "pad"
    assert report.read(workdir, "test")[0]["config"]["data"]["resize"] == "crop"


def test_evaluation_that_cannot_be_written_is_printed(trained, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    (workdir / "evaluation-test-predictions.npz").unlink()
    (workdir / "evaluation-test-predictions.npz").mkdir()
    result = command("--mode=evaluate", f"--workdir={workdir}")
    assert result.returncode == 1
    figures = r"top-1 0\.\d+, top-5 0\.\d+, loss \d\.\d+"
    assert re.fullmatch(f"error: {figures}: could not be written to {workdir}: Is a directory\n", result.stderr)


def test_evaluation_by_another_config_is_refused(trained):
    workdir, _ = trained
    result = command("--mode=evaluate", *SMALL_RUN, "--config.model.width=0.1", f"--workdir={workdir}")
    assert result.returncode == 2
    assert "belongs to a run with a different config (model.width: 0.01 -> 0.1)" in result.stderr


def test_check_computes_nothing(tmp_path):
    result = command(
        "--config=configs/xception.py", "--config.data.name=synthetic", "--mode=check", f"--workdir={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    assert "22,855,952" in result.stdout
    assert "8.3" in result.stdout or "8.4" in result.stdout  # G multiply-adds
    assert not list(tmp_path.iterdir())


def test_show_batch_names_its_examples(tmp_path):
    result = command(*SMALL_RUN, "--mode=show_batch", "--step=12345", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = [line.split("\t") for line in (tmp_path / "batch-12345.txt").read_text().splitlines()]
    assert len(rows) == 64
    assert all(identity.startswith("digits/") for _, identity, _ in rows)
    assert (tmp_path / "batch-12345.png").exists()
