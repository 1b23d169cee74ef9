"""What holds in exact arithmetic, shown in float64: how many devices share the work decides rounding and nothing else.

In float32 two orders of one sum may differ by a bit, a bit may turn a ReLU over, and training magnifies that without a
bound. In float64 the same steps leave six orders of magnitude between rounding and the bound asked for here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xception_jax.config import default
from xception_jax.models import build_network, variables
from xception_jax.parallel.mesh import data_mesh, put_batch, replicated, state_shardings
from xception_jax.training.state import create_state
from xception_jax.training.step import TrainSettings, make_train_step
from xception_jax.workdir.checkpoints import Checkpoints

BOUND = 1e-10
LEARNING_RATE = 0.05
NUM_CLASSES = 4


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    """Whatever the code would make float32 is float64."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield


def batch(step, size=16):
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, size).astype(np.int32),
    }


class Training:
    """A small network's training on some of the devices, with momentum and averages."""

    def __init__(self, num_devices, accumulate_steps, dropout):
        model = build_network(
            "xception", num_classes=NUM_CLASSES, rngs=nnx.Rngs(0), dtype="float64", param_dtype="float64",
            stem="small", width=0.01, middle_blocks=0, bn_momentum=0.9, dropout=dropout,
        )  # fmt: skip
        graphdef, self.weights = variables.split(model)
        self.optimizer, self.mesh = optax.sgd(LEARNING_RATE, 0.9), data_mesh(jax.devices()[:num_devices])
        settings = TrainSettings(average_decay=0.9, accumulate_steps=accumulate_steps)
        self.step = make_train_step(
            graphdef, self.optimizer, optax.constant_schedule(LEARNING_RATE), settings, self.mesh
        )

    def first_state(self):
        state = create_state(jax.tree.map(jnp.copy, self.weights), self.optimizer, averaging=True)
        return jax.device_put(state, replicated(self.mesh))

    def run(self, state, steps):
        """The state after the steps, and each one's metrics."""
        metrics = []
        for step in steps:
            state, figures = self.step(state, put_batch(batch(step), self.mesh))
            metrics.append(figures)
        return state, metrics


@functools.cache
def training(num_devices, accumulate_steps=1, dropout=0.5):
    return Training(num_devices, accumulate_steps, dropout)


def assert_equal_but_for_rounding(ours, theirs):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype in (np.float64, np.int32), jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=BOUND, atol=BOUND, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("num_devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_any_number_of_devices_takes_the_same_steps(num_devices):
    """Parameters, statistics, averages, momentum, losses and the gradient's norm, over four steps with dropout."""
    one, several = training(1), training(num_devices)
    expected = one.run(one.first_state(), range(4))
    assert_equal_but_for_rounding(several.run(several.first_state(), range(4)), expected)


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(8, 1, marks=pytest.mark.slow)])
def test_run_goes_on_elsewhere(tmp_path, before, after):
    """The state on the other devices is the saved one bit for bit, and two steps more end where they would have."""
    here, there = training(before), training(after)
    saved, _ = here.run(here.first_state(), range(2))
    checkpoints = Checkpoints(tmp_path, default().checkpoint)
    checkpoints.save(saved, None, {})
    checkpoints.wait()
    shardings = state_shardings(saved, there.mesh, fully_sharded=False)
    moved = checkpoints.restore(2, jax.eval_shape(lambda: saved), shardings)
    checkpoints.close()
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(saved), strict=True):
        assert len(a.sharding.device_set) == after
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert_equal_but_for_rounding(there.run(moved, range(2, 4)), here.run(saved, range(2, 4)))


@pytest.mark.slow
def test_accumulation_is_the_mean_of_its_parts():
    """Two parts on eight devices, against each part alone on one: gradients and losses are means, taken by NumPy; the
    running statistics are those after one part and then the other."""
    whole, eight, one = batch(0), training(8, accumulate_steps=2, dropout=0.0), training(1, dropout=0.0)
    ours, figures = eight.step(eight.first_state(), put_batch(whole, eight.mesh))
    gradients, losses, statistics = [], [], one.weights.batch_stats
    for part in range(2):
        state = one.first_state()
        state.weights.batch_stats = jax.tree.map(jnp.copy, statistics)
        rows = {name: column[part::2] for name, column in whole.items()}
        after, alone = one.step(state, put_batch(rows, one.mesh))
        gradients.append(after.opt_state[0].trace)  # before any momentum
        losses.append(alone["loss"])
        statistics = after.weights.batch_stats
    mean = jax.tree.map(lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, *gradients)
    assert_equal_but_for_rounding(ours.opt_state[0].trace, mean)
    stepped = jax.tree.map(lambda w, g: np.asarray(w) - LEARNING_RATE * g, one.weights.params, mean)
    assert_equal_but_for_rounding(ours.weights.params, stepped)
    assert_equal_but_for_rounding(ours.weights.batch_stats, statistics)
    np.testing.assert_allclose(figures["loss"], np.mean(losses), rtol=BOUND)


# Refresh with: python -m tests.test_float64, and say in the commit why the numbers changed.
GOLDEN = {"gradient_norm": 8.033001027962772, "learning_rate": 0.05, "loss": 1.6428421901934345, "top1": 0.375}


def first_step():
    """Metrics of one step from the seed on a fixed batch, on one device."""
    one = training(1, dropout=0.0)
    _, (metrics,) = one.run(one.first_state(), [0])
    return {name: float(value) for name, value in metrics.items()}


def test_first_step_is_the_recorded_one():
    for name, value in first_step().items():
        assert value == pytest.approx(GOLDEN[name], rel=1e-9), (
            f"{name} of the first step changed: the initialisation, the network, the loss or the optimizer did. "
            "If that is meant, refresh GOLDEN by `python -m tests.test_float64` and say why in the commit."
        )


if __name__ == "__main__":
    jnp.float32 = jnp.float64
    jax.config.update("jax_enable_x64", True)
    print(f"GOLDEN = {first_step()}")
