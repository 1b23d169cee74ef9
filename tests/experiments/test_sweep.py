"""A sweep in processes of its own: killed, resumed, recorded; a run that fails does not end the others."""

import json
import subprocess
import sys

import pytest

from experiments import sweep
from xception_jax.errors import UserError

# The first training, which has a seed, ends the sweep that started it, if it is to.
CONFIG = """
import os
import pathlib
import signal
import sys

from configs import quickstart

VARIANTS = {"good": {}, "bad": {"model.stem": "no such stem"}}

def get_config(variant):
    to_kill = pathlib.Path(__file__).with_name("kill")
    if to_kill.exists() and any(argument.startswith("--config.seed") for argument in sys.argv):
        to_kill.unlink()
        os.kill(os.getppid(), signal.SIGTERM)
    c = quickstart.get_config()
    c.num_steps = 4
    c.model.width = 0.05
    c.model.middle_blocks = 0
    c.evaluation.every = "2 steps"
    c.update_from_flattened_dict(VARIANTS[variant])
    return c
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


def arguments(config, *others):
    return ["--config", str(config), "--workdir", str(config.parent / "runs"), *others]


def test_all_variants_come_before_the_next_seed(config):
    runs = sweep.planned(
        sweep.parse(arguments(config, "--seeds=2", "--grid=learning_rate=0.1,0.2", "--", "--config.batch_size=8"))
    )
    assert [(run.variant, run.seed) for run in runs] == [
        (f"{variant},learning_rate={rate}", seed)
        for seed in (0, 1)
        for rate in (0.1, 0.2)
        for variant in ("good", "bad")
    ]
    assert runs[0].flags == (
        f"--config={config}:good", "--config.seed=0", "--config.learning_rate=0.1", "--config.batch_size=8",
    )  # fmt: skip
    assert len({run.workdir for run in runs}) == len(runs)


def test_a_mistyped_variant_is_said(config):
    with pytest.raises(UserError, match='no variant "goood"; did you mean "good"'):
        sweep.planned(sweep.parse(arguments(config, "--variants=goood")))


def test_a_file_without_variants_and_a_missing_one_are_said(config):
    missing = config.with_name("smal.py")
    with pytest.raises(UserError, match=rf'no config file {missing}; did you mean "{config}"'):
        sweep.planned(sweep.parse(arguments(missing)))
    config.write_text("def get_config(): ...")
    with pytest.raises(UserError, match=r"small\.py has no VARIANTS"):
        sweep.planned(sweep.parse(arguments(config)))


def test_gpus_are_shared_by_the_runs_that_go_on_together(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    environments = [slot.environment for slot in sweep.slots(4)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["2", "5", "2", "5"]
    assert all(2 * float(environment["XLA_PYTHON_CLIENT_MEM_FRACTION"]) < 1 for environment in environments)


def test_without_a_gpu_each_run_has_its_own_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda process: {0, 1, 4, 5, 6})
    monkeypatch.setattr(sweep.shutil, "which", lambda program: program)
    assert [slot.prefix[-1] for slot in sweep.slots(2)] == ["0,4,6", "1,5"]
    assert all(slot.prefix == () for slot in [*sweep.slots(1), *sweep.slots(6)])


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_a_failed_run_is_said(config):
    command = [sys.executable, "-m", "experiments.sweep", *arguments(config, "--seeds=1")]
    records = config.parent / "runs" / "records"
    (config.parent / "kill").touch()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 130
    assert not records.exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert 'bad, seed 0: failed with exit code 2: error: unknown stem "no such stem"' in again.stdout
    record = json.loads((records / "good/0.json").read_text())
    certificate = json.loads((config.parent / "runs/good/0/evaluation-test.json").read_text())
    assert record["test"]["top1"] == certificate["metrics"]["top1"]
    assert [point["step"] for point in record["curve"]] == [2, 4]
    assert record["config"]["model.width"] == 0.05
    assert "data.path" not in record["config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("2 runs, 1 of them done")
    changed = subprocess.run([*command, "--", "--config.num_steps=6"], capture_output=True, text=True, check=False)
    assert changed.returncode == 2
    assert "has a run with other flags" in changed.stderr
    assert json.loads((records / "good/0.json").read_text()) == record
    assert [path.name for path in records.iterdir()] == ["good"]
