"""Runs that are interrupted and started again: real processes, real signals.

The long forms are `resilience.chaos` and `resilience.verify_resume`.
"""

import json

import pytest

from xception_jax.resilience import chaos, verify_resume
from xception_jax.resilience.runs import Running, compare, last_state
from xception_jax.workdir.log import read_log

N = 6
FLAGS = [
    "--config=configs/quickstart.py",
    "--config.data.name=synthetic",
    "--config.data.num_examples=20",
    "--config.data.num_classes=4",
    "--config.data.num_threads=1",
    "--config.batch_size=8",
    "--config.model.width=0.01",
    "--config.model.middle_blocks=0",
    "--config.model.dropout=0.5",
    "--config.learning_rate=0.003",  # so low that rounding stays rounding
    "--config.schedule.warmup=0 steps",
]


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """The folder of the runs that were compared with one that was left alone."""
    folder = tmp_path_factory.mktemp("runs")
    assert verify_resume.verify(FLAGS, folder, N, [verify_resume.ELSEWHERE], devices=1)
    return folder


def test_a_difference_is_seen(verified):
    """The comparison is not one that finds all runs equal: other devices round otherwise."""
    difference = compare(verified / "on-other-devices", verified / "unbroken", 2 * N)
    assert difference.examples
    assert 0 < difference.parts["parameters"] < 1e-3
    assert not difference.within({})
    assert all(array.size for array in last_state(verified / "unbroken").values())


def test_a_finished_run_started_again_keeps_its_numbers(verified):
    workdir = verified / "unbroken"
    before = (workdir / "evaluation-test-predictions.npz").read_bytes()
    config = [*FLAGS, f"--config.num_steps={2 * N}"]
    assert Running(config, workdir, devices=1).end() == [0]
    assert (workdir / "evaluation-test-predictions.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("signal", "step", "exit_codes", "promised"),
    [
        ("SIGKILL", 5, [-9, 75], True),
        ("SIGKILL", 5, [-9, -6], True),  # aborted by JAX
        ("SIGKILL", 5, [-6, 75], False),
        ("SIGKILL", 5, [-9, -9], False),
        ("SIGTERM", 5, [75, 75], True),
        ("SIGTERM", 5, [-15, 75], False),
        ("SIGTERM", -1, [-15, 75], True),  # before Python listened
        ("SIGTERM", 5, [75, 1], False),
    ],
)
def test_exit_codes_that_are_promised(signal, step, exit_codes, promised):
    """Of two processes, of which the first was sent the signal."""
    kill = chaos.Kill(signal, "training", [0], exit_codes, step)
    assert kill.as_promised() == promised


def test_chaos(tmp_path):
    """Bit for bit the run that was left alone, and its log: each step once."""
    assert chaos.chaos(FLAGS, tmp_path, kills=2, seed=274, processes=1, damaging=True)
    kills = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert kills[0]["saved"]  # by SIGTERM; the run goes on from there
    assert kills[1]["damage"]  # of the newest checkpoint

    def records(name):
        return [(r["kind"], r["step"], r["loss"], r["top1"]) for r in read_log(tmp_path / name) if "loss" in r]

    assert records("killed") == records("unbroken")
    assert [step for kind, step, *_ in records("killed") if kind == "train"] == list(range(1, 13))
