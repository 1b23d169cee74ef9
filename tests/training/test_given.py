"""Data and losses that are given from Python, when a run is started again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xception_jax import config as config_lib
from xception_jax import experiment
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


def without(name):
    parts = {part: getattr(Synthetic, part) for part in ("__len__", "__getitem__", "example_id") if part != name}
    return lambda split: type("Own", (), {**parts, "class_names": ("a", "b")})()


def with_task(split):
    source = opened(split)
    source.task = "multilabel"
    return source


def labelled(label, dtype=np.uint8):
    image = np.zeros((32, 32, 3), dtype)

    def open_split(split):
        source = opened(split)
        source.__class__ = type("Own", (Synthetic,), {"__getitem__": lambda self, index: (image, label)})
        return source

    return open_split


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (without("example_id"), 'split "train" is a Own without example_id'),
        (lambda split: None, 'split "train" is a NoneType without class_names'),
        (with_task, 'whose task is "multilabel"; did you mean "multi_label"'),
        (functools.partial(opened, count=0), "without any examples"),
        (opened("train"), "in place of config.data.name, a Synthetic is given; give a function"),
        (labelled(1.0), r"example .* has label 1.0, but labels are integers from 0 to 3"),
        (labelled(None), "has label None, but labels are integers"),
        (labelled(np.array([1.0, 0.0])), "but labels are integers from 0 to 3"),
        (labelled(1, np.float32), r"gives float32 \[32, 32, 3\] for an image"),
    ],
)
def test_what_is_no_data_set_is_refused_before_training(tiny, source, message):
    with pytest.raises(UserError, match=message):
        print(experiment.create(tiny, source=source).source)  # opens the split


def test_what_is_given_in_place_of_a_config_or_a_loss_is_refused(tiny):
    with pytest.raises(UserError, match="the config is a str; it must be a ConfigDict"):
        experiment.create("config.py")
    with pytest.raises(UserError, match=r"in place of config.loss, a str is given; give a function, or set"):
        experiment.create(tiny, loss="mine:ce")


def test_a_path_that_the_data_set_does_not_read_is_refused(tiny):
    """Its images would be those of before, and nobody would notice."""
    tiny.data.path = "imgs"
    with pytest.raises(UserError, match=r'"synthetic" does not read config.data.path, which is "imgs"; .*name=folder'):
        experiment.create(tiny)
