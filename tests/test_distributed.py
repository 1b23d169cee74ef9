"""Several processes that are one run: real ones, on this machine, with real kills."""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from xception_jax.config import default
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.models.variables import Weights
from xception_jax.parallel import distributed
from xception_jax.workdir.checkpoints import Checkpoints
from xception_jax.workdir.log import read_log

ROOT = Path(__file__).resolve().parent.parent
FULLY_SHARDED = "--config.mesh.fully_sharded"
STEPS = 12
SETTINGS = {"JAX_NUM_CPU_DEVICES": "1"}
CONFIG = [
    "--config=configs/quickstart.py",
    "--config.data.name=folder",
    "--config.data.num_threads=1",
    "--config.batch_size=8",
    f"--config.num_steps={STEPS}",
    "--config.model.width=0.01",
    "--config.model.middle_blocks=0",
    "--config.model.hidden=(1024,)",  # large enough to be split over the devices
    "--config.model.dropout=0.5",
    "--config.learning_rate=0.00001",  # so low that a ReLU which rounding turns over moves no weight by the bound
    "--config.schedule.name=constant",
    "--config.schedule.warmup=0 steps",
    "--config.log_every=1 steps",
    "--config.evaluation.every=12 steps",
    "--config.checkpoint.every=2 steps",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three splits of 20 pictures, of which one is broken in each."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, i in itertools.product(("train", "validation", "test"), range(20)):
        path = root / split / f"class {i % 4}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
        if i == 7:
            path.write_bytes(path.read_bytes()[:50])
    return root


def free_port() -> int:
    """A port that nothing listens at, outside the range that outgoing connections are given."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def variables(index: int, count: int, port: int) -> dict[str, str]:
    """What tells a process of the others."""
    if count == 1:
        return {}
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }


def slurm_variables(index: int, count: int, port: int) -> dict[str, str]:
    """What SLURM's srun would set in a process."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_PORT": str(port),
    }


class Run:
    """The processes of one run, one device each; killed when the `with` block is left."""

    def __init__(self, workdir: Path, pictures: Path, count: int, *flags: str, launcher=variables):
        flags = (f"--workdir={workdir}", f"--config.data.path={pictures}", *flags)
        self._workdir = workdir
        self._errors = [workdir.with_name(f"{workdir.name}-{count}-{i}.txt") for i in range(count)]
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "xception_jax.main", *CONFIG, *flags],
                cwd=ROOT,
                env={**os.environ, **SETTINGS, **launcher(i, count, port)},
                stdout=subprocess.PIPE,
                stderr=errors.open("w"),
                text=True,
            )
            for i, errors in enumerate(self._errors)
        ]

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    @property
    def errors(self) -> list[str]:
        """What each process wrote to stderr."""
        return [path.read_text() for path in self._errors]

    def wait_for_checkpoint(self, after: int) -> int:
        """Returns when there is a checkpoint later than that of step `after`; its step."""
        first = self.processes[0]
        assert any(f"step {after + 2}/" in line for line in first.stdout), self.errors
        while (step := latest_checkpoint(self._workdir)) <= after:
            with contextlib.suppress(subprocess.TimeoutExpired):
                first.wait(timeout=0.02)
                raise AssertionError(f"the run ended: {self.errors}")
        return step

    def kill(self, index: int) -> None:
        """Kills one of the processes."""
        self.processes[index].kill()

    def wait(self) -> tuple[list[str], list[int]]:
        """What each process prints from here on, and its exit code."""
        outputs = [process.communicate(timeout=240)[0] for process in self.processes]
        return outputs, [process.returncode for process in self.processes]

    def finish(self) -> list[str]:
        """Runs to the end; what each process printed."""
        outputs, codes = self.wait()
        assert codes == [0] * len(codes), self.errors
        return outputs


def latest_checkpoint(workdir: Path) -> int:
    """The step of the last complete one, or 0."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()), default=0)


def final_weights(workdir: Path) -> Weights:
    checkpoints = Checkpoints(workdir, default().checkpoint, read_only=True)
    return checkpoints.restore_weights(STEPS, averaged=False)[0]


def assert_same_to_rounding(workdir: Path, expected: Path) -> None:
    """Both runs logged each step once, with the same figures, and end with the same weights and certificate."""
    ours, theirs = ([r for r in read_log(folder) if "loss" in r] for folder in (workdir, expected))
    assert [(r["kind"], r["step"]) for r in ours] == [(r["kind"], r["step"]) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3), a["step"]
    for a, b in zip(*map(jax.tree.leaves, map(final_weights, (workdir, expected))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    (record, predictions), (other, others) = map(report.read, (workdir, expected))
    assert record["count"] == other["count"] == 19
    assert record["unreadable"] == other["unreadable"]
    assert list(record["unreadable"]) == ["test/class 3/7.png"]
    assert predictions.ids == others.ids
    np.testing.assert_array_equal(predictions.labels, others.labels)
    np.testing.assert_allclose(predictions.loss, others.loss, rtol=1e-3)


@pytest.fixture(scope="module")
def single(tmp_path_factory, pictures) -> Path:
    """The unbroken run of one process."""
    workdir = tmp_path_factory.mktemp("distributed") / "single"
    with Run(workdir, pictures, 1) as run:
        run.finish()
    return workdir


@pytest.mark.slow
def test_run_moves_between_numbers_of_processes(single, pictures, tmp_path):
    """And between meshes: it is the run of one. One process is killed, and that of four which the others report to;
    they stop. Then two find each other by SLURM's variables."""
    workdir, step = tmp_path / "run", 0
    for count, victim, flags in ((1, 0, ()), (4, 0, ())):
        with Run(workdir, pictures, count, *flags) as run:
            step = run.wait_for_checkpoint(after=step)
            run.kill(victim)
            _, codes = run.wait()
        assert codes.pop(victim) == -signal.SIGKILL
        errors = run.errors
        del errors[victim]
        for code, error in zip(codes, errors, strict=True):
            assert code in (os.EX_TEMPFAIL, -signal.SIGABRT), error
            assert "another one has probably died" in error or "another task died" in error  # our words, or JAX'
    with Run(workdir, pictures, 2, FULLY_SHARDED, launcher=slurm_variables) as run:
        printed, silent = run.finish()
    assert silent == ""
    assert "Resuming from step" in printed
    assert printed.splitlines()[-1].startswith(f"done: xception, step {STEPS}")
    assert_same_to_rounding(workdir, single)
    results = json.loads((workdir / "results.json").read_text())
    assert results["device"]["count"] == 2
    assert list(results["unreadable"]) == ["train/class 3/7.png"]


@pytest.mark.parametrize(
    ("address", "count", "index", "message"),
    [
        ("", "2", "", "set JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID, too"),
        ("localhost:1", "two", "0", 'JAX_NUM_PROCESSES is "two"; it must be a number'),
    ],
)
def test_incomplete_variables_are_named(monkeypatch, address, count, index, message):
    for name, value in zip(distributed.VARIABLES, (address, count, index), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.initialize(several=True)
