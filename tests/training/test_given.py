"""Data and losses that are given from Python, when a run is started again."""

import functools

import jax
import jax.numpy as jnp
import pytest

from xception_jax import config as config_lib
from xception_jax.data.sources.builtin import Synthetic
from xception_jax.errors import UserError
from xception_jax.training import loop
from xception_jax.workdir import identity


def opened(split, count=20):
    return Synthetic(split, count, 4, 32)


def powered(logits, labels, *, gamma=1.0):
    """A loss of one's own."""
    return (1 - jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]) ** gamma


@pytest.fixture
def restarts(tiny, tmp_path, monkeypatch):
    """Starts a run, and starts it again: what is remarked the second time. Nothing is trained."""
    monkeypatch.setattr(loop, "has_checkpoints", lambda workdir: (workdir / "config.json").exists())

    def start(source, loss):
        start = loop.prepare(tiny, tmp_path, source, loss, range(0))
        (tmp_path / "config.json").write_text(config_lib.to_json(start.recipe.experiment.config))
        identity.record(tmp_path, start.splits, 0)
        return start.remarks

    def restarts(first, second):
        assert start(*first) == []
        return start(*second)

    return restarts


def test_data_is_compared_by_its_examples(restarts):
    """Not by what the function that opens it is called: a script's may move into a module."""
    assert restarts((lambda split: opened(split), None), (opened, None)) == []


def test_other_data_is_refused(restarts):
    with pytest.raises(UserError, match="20 examples then, 19 now"):
        restarts((opened, None), (functools.partial(opened, count=19), None))


def test_another_loss_is_refused(restarts):
    with pytest.raises(UserError, match=r"loss: \S*:powered\(gamma=2\.0\) -> \S*:powered\(gamma=3\.0\)"):
        restarts((None, functools.partial(powered, gamma=2.0)), (None, functools.partial(powered, gamma=3.0)))


def test_a_loss_that_cannot_be_told_from_others_is_said(restarts):
    def loss(logits, labels):
        return powered(logits, labels)

    (remark,) = restarts((None, loss), (None, loss))
    assert remark.startswith(f"the loss {__name__}:test_a_loss")
    assert remark.endswith("<locals>.loss cannot be compared with that of the run until now: it must be the same")
