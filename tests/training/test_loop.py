"""What the loop keeps, and runs that are made longer."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xception_jax.data import pipeline
from xception_jax.data.sources import registry
from xception_jax.data.sources.builtin import Synthetic
from xception_jax.data.storage import Patience
from xception_jax.errors import StorageError, UserError
from xception_jax.pretrained import load
from xception_jax.tasks.metrics import register_metric
from xception_jax.training import loop, rate_finder
from xception_jax.workdir.checkpoints import Checkpoints
from xception_jax.workdir.log import read_log

pytestmark = pytest.mark.usefixtures("one_device")


def saved(workdir, config, step):
    checkpoints = Checkpoints(workdir, config.checkpoint, read_only=True)
    weights, averaged = checkpoints.restore_weights(step, averaged=False)
    assert not averaged
    return weights


@pytest.fixture(scope="module")
def run(one_device, tiny_config, tmp_path_factory):
    """Eight steps, evaluated after each, but saved only at the end."""
    workdir = tmp_path_factory.mktemp("run")
    tiny = tiny_config()
    tiny.num_steps, tiny.evaluation.every, tiny.checkpoint.every = 8, "1 steps", "1000 steps"
    tiny.checkpoint.best_metric, tiny.checkpoint.keep_last = "loss", 1
    loop.train(tiny, workdir)
    return workdir, tiny


def test_the_best_checkpoint_is_there_whatever_the_intervals(run):
    workdir, config = run
    losses = {r["step"]: r["loss"] for r in read_log(workdir) if r["kind"] == "evaluation"}
    assert sorted(losses) == list(range(1, 9))
    best = min(losses, key=losses.get)
    checkpoints = Checkpoints(workdir, config.checkpoint, read_only=True)
    assert checkpoints.find("best") == best
    assert checkpoints.find("last") == 8


def test_weights_of_a_run_are_its_best_and_say_so(run):
    workdir, config = run
    best = Checkpoints(workdir, config.checkpoint, read_only=True).find("best")
    chosen = load(workdir)
    assert f"(step {best}, loss " in chosen.source
    for which, step in (("best", best), ("last", 8), ("8", 8)):
        named = load(f"{workdir}@{which}")
        assert f"(step {step}" in named.source
        same = [
            np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (named.weights, chosen.weights)), strict=True)
        ]
        assert all(same) == (step == best)
    with pytest.raises(UserError, match="no checkpoint of step"):
        load(f"{workdir}@7000")


class Away(Synthetic):
    """Images that cannot be read while there is an error number."""

    number = 0

    def __getitem__(self, index):
        if Away.number:
            raise OSError(Away.number, "said so")
        return super().__getitem__(index)


@pytest.mark.slow
def test_data_that_goes_away_loses_no_step(tiny, tmp_path, monkeypatch):
    """Not even those since the last save, and when it is back, the run goes on."""
    monkeypatch.setattr(registry, "Synthetic", Away)
    monkeypatch.setattr(pipeline, "Patience", lambda: Patience(waits=()))
    tiny.num_steps, tiny.checkpoint.every, tiny.evaluation.every = 100, "100 steps", "100 steps"
    report, numbers = loop.RunLog.train, {3: errno.EIO, 20: errno.ENOENT}

    def train(log, step, *arguments):
        Away.number = numbers.pop(step, Away.number)
        report(log, step, *arguments)

    monkeypatch.setattr(loop.RunLog, "train", train)
    for error, least in ((StorageError, 3), (UserError, 20)):
        monkeypatch.setattr(Away, "number", 0)
        with pytest.raises(error, match="cannot be read"):
            loop.train(tiny, tmp_path)
        steps = [r["step"] for r in read_log(tmp_path) if r["kind"] == "train"]
        assert steps == list(range(1, steps[-1] + 1))
        assert Checkpoints(tmp_path, tiny.checkpoint, read_only=True).find("last") == steps[-1] >= least


def test_classes_of_a_checkpoint_are_not_forgotten(run, tmp_path, monkeypatch):
    """By a run of an earlier version, which did not record its data: other names of the same number."""

    class Renamed(Synthetic):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.class_names = ("apple", *self.class_names[1:])

    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    monkeypatch.setattr(registry, "Synthetic", Renamed)
    with pytest.raises(UserError, match=r"now has different classes \(without class0; with apple\); restore the data"):
        loop.train(run[1], tmp_path / "run")


def test_checkpoints_that_are_gone_are_missed(run, tmp_path):
    """Training begins anew without a word in other programs (facebookresearch/metaseq#602)."""
    (sentence,) = loop.lost(run[0], 0)
    assert sentence.startswith(f"step 8 was saved, but {run[0] / 'checkpoints'} has no intact checkpoint")
    assert loop.lost(run[0], 8) == loop.lost(tmp_path, 0) == []


def test_training_ends_where_nothing_gets_better(tiny, tmp_path):
    """A metric that is always the same is best at first; the second evaluation after that is one too many."""
    register_metric("constant", lambda logits, labels: jnp.zeros(logits.shape[0]))
    tiny.metrics, tiny.checkpoint.best_metric = ("constant",), "constant"
    tiny.num_steps, tiny.evaluation.every, tiny.checkpoint.every, tiny.patience = 100, "1 steps", "never", 2
    assert loop.train(tiny, tmp_path)["step"] == 3
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [1, 3]
    seconds = json.loads((tmp_path / "results.json").read_text())["wall_time"]
    again = loop.train(tiny, tmp_path)  # has ended already
    assert (again["step"], again["wall_time"]) == (3, seconds)


def test_never_is_not_at_all(tiny, tmp_path):
    """No evaluation of the validation split, and the final checkpoint alone, of training."""
    tiny.num_steps, tiny.evaluation.every, tiny.checkpoint.every = 4, "never", "never"
    loop.train(tiny, tmp_path)
    kinds = [(r["kind"], r["step"]) for r in read_log(tmp_path)]
    assert [kind for kind in kinds if kind[0] != "train"] == [("save", 4)]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert (tmp_path / "evaluation-validation.json").exists()  # of the test split, which is called so


@pytest.mark.slow
def test_a_run_that_is_made_longer_is_the_long_run(tiny, tmp_path):
    """With a schedule that does not depend on the length, bit for bit."""
    tiny.schedule.name = "constant"
    short, long = tmp_path / "short", tmp_path / "long"
    tiny.num_steps = 4
    loop.train(tiny, short)
    tiny.num_steps = 7
    loop.train(tiny, short)
    loop.train(tiny, long)
    for a, b in zip(*(jax.tree.leaves(saved(w, tiny, 7)) for w in (short, long)), strict=True):
        np.testing.assert_array_equal(a, b)
    (note,) = [r["text"] for r in read_log(short) if r["kind"] == "note"]
    assert note == "training lasts 7 steps, not 4 as before"
    tiny.num_steps = 5
    with pytest.raises(UserError, match="at step 7, past the 5 steps"):
        loop.train(tiny, short)


def test_a_trial_of_rates_starts_as_the_run_and_leaves_it_as_it_is(run, tmp_path, monkeypatch):
    workdir, config = run
    copy = shutil.copytree(workdir, tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    monkeypatch.setattr(rate_finder, "STEPS", 3)
    trial = rate_finder.find_rate(config, copy)
    first = next(r["loss"] for r in read_log(workdir) if r["kind"] == "train")
    assert trial.losses[0] == pytest.approx(first, rel=1e-3)
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} == {"rates.csv", "rates.png"}
    assert {path: after[path] for path in before} == before
    assert (copy / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert len((copy / "rates.csv").read_text().splitlines()) == 1 + 3
