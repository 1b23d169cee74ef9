"""SIGTERM at any time, and what a run writes where."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xception_jax.errors import UserError
from xception_jax.evaluation.evaluator import Evaluator
from xception_jax.parallel.preemption import RESTART, Preempted, Preemption
from xception_jax.resilience.runs import Running
from xception_jax.training import loop
from xception_jax.workdir.checkpoints import Checkpoints
from xception_jax.workdir.log import read_log
from xception_jax.workdir.status import read_status
from xception_jax.workdir.throughput import parse_profile

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    f"--config={ROOT}/configs/quickstart.py",
    "--config.batch_size=8",
    "--config.num_steps=4",
    "--config.model.width=0.01",
    "--config.model.middle_blocks=0",
    "--config.log_every=1 steps",
    "--config.evaluation.batch_size=120",
    "--config.schedule.warmup=0 steps",
]


def test_during_compilation_it_ends_at_once(tmp_path):
    run = Running(FLAGS, tmp_path / "run", devices=1)
    # From here on the first step is traced and compiled, which is one call as Python sees it.
    assert run.wait_until(lambda: run.step() == 0)
    assert run.end(signal.SIGTERM) == [RESTART]
    assert "Stopped by SIGTERM" in run.output.read_text()
    assert read_status(tmp_path / "run")["state"] == "preempted"
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_during_evaluation_the_step_is_saved_and_its_evaluation_made_up_for(tiny, tmp_path, monkeypatch):
    predict, signalled = Evaluator.predict, []

    def predict_and_be_stopped(self, *arguments):
        if not signalled:
            signalled.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, *arguments)

    monkeypatch.setattr(Evaluator, "predict", predict_and_be_stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        loop.train(tiny, tmp_path, preemption=Preemption(listens=True))
    assert signal.getsignal(signal.SIGTERM) is before
    assert read_status(tmp_path)["state"] == "preempted"
    assert Checkpoints(tmp_path, tiny.checkpoint, read_only=True).latest == 3  # the evaluation's; saves are every 2
    loop.train(tiny, tmp_path)
    records = read_log(tmp_path)
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [3, 6]
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_nothing_is_written_outside_the_work_directory_and_traces_go_there_too(tmp_path):
    folders = {name: tmp_path / name for name in ("home", "here", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    env = {**os.environ, "HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "xception_jax.main", *FLAGS, f"--workdir={tmp_path}/run", "--profile=2:2"]
    done = subprocess.run(
        command,
        cwd=folders["here"],
        env={**env, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # In the home directory, caches alone.
    assert {path.name for path in folders["home"].iterdir()} <= {".cache"}
    assert not [path for name in ("here", "tmp") for path in folders[name].rglob("*")]
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert {e["args"]["step_num"] for e in events if e.get("name") == "train"} == {"2", "3"}
    assert list(trace.parent.glob("*.xplane.pb"))  # for XProf


@pytest.mark.parametrize("text", ["", "5", "5:", "0:3", "3:0", "a:b", "-1:2"])
def test_profile_says_what_it_wants(text):
    with pytest.raises(UserError, match="write START:COUNT"):
        parse_profile(text)
    assert parse_profile("3:2") == range(3, 5)
