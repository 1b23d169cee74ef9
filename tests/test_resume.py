"""Runs that are killed and started again: real processes, real kills."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import chaos
from xception_jax import config as config_lib
from xception_jax import experiment
from xception_jax.checkpoints import Checkpoints
from xception_jax.logs import read_log

STEPS = 40
COMMAND = [
    sys.executable,
    "-m",
    "xception_jax.main",
    "--config=configs/quickstart.py",
    "--config.data.name=synthetic",
    "--config.data.num_examples=20",
    "--config.data.num_classes=4",
    "--config.data.num_threads=1",
    "--config.batch_size=8",
    f"--config.num_steps={STEPS}",
    "--config.model.width=0.05",
    "--config.model.dropout=0.5",
    "--config.log_every=1 steps",
    "--config.evaluation.every=10 steps",
    "--config.checkpoint.every=4 steps",
]
ROOT = Path(__file__).resolve().parent.parent


def start(workdir: Path) -> subprocess.Popen:
    """Starts a run on two devices; its lines can be read from stdout."""
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path) -> None:
    """Runs to the end."""
    process = start(workdir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def kill_at_line(workdir: Path, text: str) -> None:
    """Kills a run when it prints a line with `text`."""
    process = start(workdir)
    assert any(text in line for line in process.stdout), f"the run ended before {text!r}: {process.stderr.read()}"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def kill_when(workdir: Path, condition: Callable[[], bool]) -> None:
    """Kills a run as soon as `condition` holds."""
    process = start(workdir)
    while not condition():
        assert process.poll() is None, "the run ended before the condition held"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by path."""
    config = config_lib.read(workdir / "config.json")
    run = experiment.create(config)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    assert checkpoints.latest == STEPS
    state = checkpoints.restore(STEPS, run.abstract_state, run.state_shardings)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    finish(workdir)
    return workdir


def assert_same_run(workdir: Path, unbroken: Path) -> None:
    """The two runs ended with the same bits and logged the same numbers, each step once."""
    ours, theirs = final_state(workdir), final_state(unbroken)
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        np.testing.assert_array_equal(ours[path], array, err_msg=path)

    def record(folder: Path) -> list[tuple]:
        return [(r["kind"], r["step"], r["loss"], r["top1"]) for r in read_log(folder) if "loss" in r]

    assert record(workdir) == record(unbroken)


def test_killed_between_saves(unbroken, tmp_path):
    kill_at_line(tmp_path, f"step 6/{STEPS}")
    kill_at_line(tmp_path, f"step 19/{STEPS}")
    finish(tmp_path)
    assert_same_run(tmp_path, unbroken)


def test_killed_during_a_save(unbroken, tmp_path):
    folder = tmp_path / "checkpoints"

    def saving() -> bool:
        return (folder / "8").exists() and any(folder.glob("*tmp*"))

    kill_when(tmp_path, saving)
    assert any(folder.glob("*tmp*"))
    finish(tmp_path)
    assert not any(folder.glob("*tmp*"))
    assert_same_run(tmp_path, unbroken)


def test_finished_run_started_again_keeps_its_numbers(unbroken):
    before = (unbroken / "evaluation-test-predictions.npz").read_bytes()
    finish(unbroken)
    after = (unbroken / "evaluation-test-predictions.npz").read_bytes()
    assert before == after


def test_chaos(tmp_path):
    flags = [flag for flag in COMMAND[3:] if "num_steps" not in flag and "every" not in flag]
    assert chaos.chaos(flags, tmp_path, kills=3, seed=0, processes=1, damaging=True)
