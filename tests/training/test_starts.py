"""What a start leaves of a run that is there: one that is refused, one with nothing left to do, one that is traced."""

import json

import pytest

from xception_jax import config as config_lib
from xception_jax.errors import UserError
from xception_jax.parallel import ending
from xception_jax.training import loop
from xception_jax.workdir import throughput
from xception_jax.workdir.throughput import Profiler

FILES = ("status.json", "results.json", "config.json", "run.json", "log.jsonl", "evaluation-validation.json")


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A run of three steps, whose results tell of an unreadable image."""
    workdir, config = tmp_path_factory.mktemp("run"), tiny_config()
    config.num_steps, config.evaluation.every = 3, "3 steps"
    loop.train(config, workdir)
    results = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(json.dumps(results | {"unreadable": {"train/7": "it is empty"}}))
    return workdir, config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate: 0.045 -> 0.5"),
        ({"num_steps": 2}, "already at step 3, past the 2 steps"),
        ({"data.train_split": "tran"}, "tran"),
        ({"model.widht": 2}, "widht"),
    ],
)
def test_refused_start_changes_nothing(finished, change, message):
    workdir, config = finished
    before, hook = {name: (workdir / name).read_bytes() for name in FILES}, ending.hooks.before_leaving
    asked = config.copy_and_resolve_references()
    for key, value in change.items():
        section, _, name = key.rpartition(".")
        (asked[section] if section else asked)[name] = value
    with pytest.raises(UserError, match=message):
        loop.train(asked, workdir)
    assert {name: (workdir / name).read_bytes() for name in FILES} == before
    assert ending.hooks.before_leaving is hook  # it would close the next run's files


def test_finished_run_that_is_started_again_keeps_what_training_was(finished):
    workdir, config = finished
    before = json.loads((workdir / "results.json").read_text())
    assert before["images_per_second"] > 0
    results = loop.train(config, workdir)
    assert results == json.loads((workdir / "results.json").read_text())
    names = ("images_per_second", "wall_time", "unreadable")
    assert [results[name] for name in names] == [before[name] for name in names]


class Trace:
    """Stands for JAX' profiler."""

    def __init__(self, monkeypatch):
        self.said = []
        start = lambda folder, **_: self.said.append("start")  # noqa: E731
        monkeypatch.setattr(throughput.jax.profiler, "start_trace", start)
        monkeypatch.setattr(throughput.jax.profiler, "stop_trace", lambda: self.said.append("stop"))


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (range(1, 9), ["step 1", "step 2", "start", "step 3", "step 4", "step 5", "finish", "stop", "step 6"]),
        (range(4, 9), ["start", "step 4", "step 5", "finish", "stop", "step 6"]),  # resumed inside of the window
        (range(1, 5), ["step 1", "step 2", "start", "step 3", "step 4", "stop"]),  # ended there
        (range(6, 9), ["step 6"]),
    ],
)
def test_steps_that_are_taken_are_traced(tmp_path, monkeypatch, taken, said):
    trace, profiler = Trace(monkeypatch), Profiler(tmp_path, range(3, 6))
    for step in taken:
        with profiler.step(step, finish=lambda: trace.said.append("finish")):
            trace.said.append(f"step {step}")
    profiler.close()
    assert [word for word in trace.said if word not in ("step 7", "step 8")] == said


def test_steps_to_trace_that_are_never_taken_are_said(finished):
    workdir, config = finished
    with pytest.raises(UserError, match="asks for steps 4 to 5, but training ends at step 3"):
        loop.train(config, workdir, profile=range(4, 6))
    assert Profiler(workdir, range(2, 4)).missed(2, 3) == []
    assert Profiler(workdir, range(0)).missed(3, 3) == []
    (remark,) = Profiler(workdir, range(2, 4)).missed(3, 3)
    assert remark == "--profile: steps 2 to 3 are done already; nothing is traced"


@pytest.fixture(scope="module")
def fine_tuned(tiny_config, tmp_path_factory):
    """Two steps of fine-tuning from a run with another input and epsilon, whose folder is gone since."""
    folder = tmp_path_factory.mktemp("fine_tuned")
    config = tiny_config()
    config.num_steps, config.model.bn_epsilon, config.data.resize = 1, 0.01, "pad"
    config.evaluation.every = "never"
    loop.train(config, folder / "first")
    tuned = tiny_config()
    tuned.num_steps, tuned.evaluation.every, tuned.model.weights = 2, "never", str(folder / "first")
    loop.train(tuned, folder / "run")
    (folder / "first").rename(folder / "gone")
    return folder / "run", tuned


@pytest.mark.slow
def test_fine_tuned_run_resumes_without_the_weights_it_began_with(fine_tuned):
    workdir, config = fine_tuned
    longer = config.copy_and_resolve_references()
    longer.num_steps = 3
    assert loop.train(longer, workdir)["step"] == 3
    settings = config_lib.read(workdir / "config.json")
    assert (settings.model.bn_epsilon, settings.data.resize) == (0.01, "pad")
    longer.data.resize = "crop"
    with pytest.raises(UserError, match=r"data\.resize: pad -> crop"):
        loop.train(longer, workdir)


def test_without_an_intact_checkpoint_they_are_needed(fine_tuned):
    workdir, config = fine_tuned
    for step in (workdir / "checkpoints").iterdir():
        (step / "sha256.json").unlink()
    with pytest.raises(UserError, match=r"there are no weights .*first"):
        loop.train(config, workdir)
