"""Which checkpoints are kept, and which is the best."""

import jax.numpy as jnp
import optax
import pytest

from xception_jax.errors import UserError
from xception_jax.models.variables import Weights
from xception_jax.training.state import create_state
from xception_jax.workdir import checksums
from xception_jax.workdir.checkpoints import Checkpoints


def save(checkpoints, step, top1):
    state = create_state(Weights({"kernel": jnp.ones(3)}, {}), optax.sgd(0.1), averaging=False)
    state.step = jnp.int32(step)
    # A loss that is lower where top-1 is lower: what is best depends on the metric.
    checkpoints.save(state, None if top1 is None else {"top1": top1, "loss": top1}, run={})


@pytest.fixture
def settings(tiny):
    tiny.checkpoint.keep_last = 2
    return tiny.checkpoint


@pytest.mark.parametrize(("metric", "best", "kept"), [("top1", 2, [2, 4, 5]), ("loss", 1, [1, 4, 5])])
def test_the_last_and_the_best_are_kept_also_by_a_process_started_again(tmp_path, settings, metric, best, kept):
    settings.best_metric = metric
    checkpoints = Checkpoints(tmp_path, settings)
    for step, top1 in ((1, 0.1), (2, 0.9), (3, None), (4, 0.5)):
        save(checkpoints, step, top1)
    checkpoints.close()
    resumed = Checkpoints(tmp_path, settings)
    save(resumed, 5, 0.3)
    resumed.close()
    read = Checkpoints(tmp_path, settings, read_only=True)
    assert (read.find("best"), read.find("last"), read.latest) == (best, 5, 5)
    assert read.ranked() == {"top1": [2, 4, 5], "loss": [1, 5, 4]}[metric]
    with pytest.raises(UserError, match=rf'no checkpoint of step "3" .*choose from: \{kept}, last, best'):
        read.find("3")


def test_a_damaged_checkpoint_is_skipped_by_readers_and_set_aside_by_a_run(tmp_path, settings, capsys):
    """Of a whole run, tests/test_faults.py shows it."""
    checkpoints = Checkpoints(tmp_path, settings)
    for step in (2, 4):
        save(checkpoints, step, None)
    checkpoints.close()
    victim = max((tmp_path / "checkpoints" / "4" / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert Checkpoints(tmp_path, settings, read_only=True).find("last") == 2
    assert "the checkpoint of step 4 is damaged" in capsys.readouterr().out
    resumed = Checkpoints(tmp_path, settings)
    resumed.close()
    (sentence,) = resumed.set_aside
    assert f"it was moved to {tmp_path / 'damaged' / '4.0'}" in sentence
    assert (tmp_path / "damaged" / "4.0" / "state").is_dir()
    assert resumed.latest == 2


def test_save_that_holds_nothing_does_not_count(tmp_path, settings):
    """To Orbax the folder's name is a pattern that does not match: it finds no part of the checkpoint to join."""
    checkpoints = Checkpoints(tmp_path / "run[1]", settings)
    save(checkpoints, 1, None)
    with pytest.raises(OSError, match=r"of \d+ arrays 0 are in the index"):
        checkpoints.wait()
    assert not checkpoints.holds(1)


def test_checkpoint_without_an_index_is_damaged(tmp_path, settings):
    """As earlier versions left them: all files are those that were written."""
    checkpoints = Checkpoints(tmp_path, settings)
    save(checkpoints, 1, None)
    save(checkpoints, 2, None)
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "2"
    (folder / "state" / "manifest.ocdbt").unlink()
    checksums.write(folder)
    assert Checkpoints(tmp_path, settings, read_only=True).find("last") == 1
    assert "step 2 is damaged: it has no index of its arrays" in Checkpoints(tmp_path, settings).set_aside[0]


def test_without_an_evaluation_there_is_no_best(tmp_path, settings):
    checkpoints = Checkpoints(tmp_path, settings)
    with pytest.raises(UserError, match=r"there is no checkpoint"):
        checkpoints.find("last")
    save(checkpoints, 1, None)
    checkpoints.wait()
    with pytest.raises(UserError, match=r"none of the checkpoints .* was evaluated, .*; choose from: \[1\], last"):
        checkpoints.find("best")
