"""Runs that are interrupted and started again: real processes, real signals.

The long forms are `resilience.chaos` and `resilience.verify_resume`.
"""

import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from xception_jax.config import default
from xception_jax.models import variables
from xception_jax.resilience import chaos, verify_resume
from xception_jax.resilience.runs import Running, compare, hashes, last_restored
from xception_jax.training.state import create_state
from xception_jax.workdir.checkpoints import Checkpoints
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
    "--config.schedule.warmup=0 steps",
]


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """The folder of the runs that were compared with one that was left alone."""
    folder = tmp_path_factory.mktemp("runs")
    assert verify_resume.verify(FLAGS, folder, N, [verify_resume.ELSEWHERE], devices=1)
    return folder


@pytest.mark.slow
def test_the_run_was_moved(verified):
    """The table's verdict is of a run that went on on two devices, with all of its state."""
    restored = last_restored(verified / "on-other-devices")
    assert restored["devices"] == 2
    assert N // 2 <= restored["step"] < 2 * N
    parts = {name.split(".")[0] for name in restored["arrays"]}
    assert parts == {"step", "weights", "averaged", "opt_state"}


@pytest.fixture
def written(tmp_path):
    """Writes the work directory of a run of two steps that ends with a given state, and saw given examples."""

    def write(name, state, examples):
        checkpoints = Checkpoints(tmp_path / name, default().checkpoint)
        checkpoints.save(state, None, {})
        checkpoints.close()
        lines = [json.dumps({"step": i + 1, "process": 0, "index": index}) for i, index in enumerate(examples)]
        (tmp_path / name / "examples-0.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


@pytest.mark.parametrize("part", ["parameters", "statistics", "averages", "optimizer", "examples"])
def test_a_difference_of_one_bit_is_seen(written, part):
    """And where: the comparison is not one that finds all runs equal."""
    ones = {"layer": np.ones(3, np.float32)}
    weights = variables.Weights(ones, {"layer": np.zeros(2, np.float32)})
    state = create_state(weights, optax.sgd(0.1, 0.9), averaging=True)
    state.step = np.int32(2)
    state, examples = jax.tree.map(np.asarray, state), [[0, 1], [2, 3]]
    one = written("one", state, examples)
    again = compare(written("again", state, examples), one, 2)
    assert again.equal
    assert set(again.parts) == {"parameters", "statistics", "averages", "optimizer", "step"}

    places = {
        "parameters": lambda s: s.weights.params,
        "statistics": lambda s: s.weights.batch_stats,
        "averages": lambda s: s.averaged.params,
        "optimizer": lambda s: s.opt_state[0].trace,
    }
    changed = jax.tree.map(np.copy, state)
    if part == "examples":
        examples = [[0, 1], [3, 2]]
    else:
        bits = places[part](changed)["layer"].view(np.int32)
        bits[0] ^= 1
    difference = compare(written("other", changed, examples), one, 2)
    assert not difference.equal
    assert difference.examples == (part != "examples")
    assert {name for name, distance in difference.parts.items() if distance} == {part} - {"examples"}
    assert (hashes(changed) == hashes(state)) == (part == "examples")


@pytest.mark.slow
def test_a_finished_run_started_again_keeps_its_numbers(verified):
    workdir = verified / "unbroken"
    before = (workdir / "evaluation-test-predictions.npz").read_bytes()
    config = [*FLAGS, f"--config.num_steps={2 * N}"]
    assert Running(config, workdir, devices=1).end() == [0]
    assert (workdir / "evaluation-test-predictions.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        (verify_resume, ["--config=nope.py", "--steps=1"], "there is no config file nope.py; choose from"),
        (chaos, ["--foo"], "Unknown command line flag 'foo'"),
    ],
    ids=["verify-resume", "chaos"],
)
def test_a_mistake_ends_in_one_line_and_the_output_is_kept(command, flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert command.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    start, _, output = line.rpartition("; see ")
    assert start.startswith(f"error: the run failed: {said}")
    assert said in Path(output).read_text()


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


@pytest.mark.slow
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
