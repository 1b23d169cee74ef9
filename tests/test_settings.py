"""What each setting of the loss, the learning rate, the length and the evaluation does, against NumPy in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xception_jax import experiment as experiment_lib
from xception_jax.errors import UserError
from xception_jax.evaluation.evaluator import Evaluator, eval_step
from xception_jax.models import variables
from xception_jax.parallel.mesh import data_mesh, put_batch, replicated
from xception_jax.tasks.losses import cross_entropy
from xception_jax.training import summary
from xception_jax.training.durations import in_steps
from xception_jax.training.optimizers import create_schedule
from xception_jax.training.recipe import create_recipe
from xception_jax.training.state import create_state
from xception_jax.training.step import TrainSettings, make_train_step

CLASSES = 5


class Linear(nnx.Module):
    """Logits that are linear in the pictures, and auxiliary ones beside them in training."""

    def __init__(self, rngs):
        self.logits = nnx.Linear(2 * 2 * 3, CLASSES, rngs=rngs)
        self.auxiliary = nnx.Linear(2 * 2 * 3, CLASSES, rngs=rngs)

    def __call__(self, x, *, train=False, rngs=None):
        flat = x.reshape(len(x), -1)
        return (self.logits(flat), self.auxiliary(flat)) if train else self.logits(flat)


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (16, 2, 2, 3), np.uint8),
        "label": rng.integers(0, CLASSES, 16).astype(np.int32),
    }


def one_step(settings, averaging=False):
    """The arrays of a linear network before a step, the state after it, and the step's metrics."""
    graphdef, weights = variables.split(Linear(nnx.Rngs(0)))
    before = jax.tree.map(lambda x: np.asarray(x, np.float64), weights.params)
    optimizer, mesh = optax.sgd(0.1), data_mesh()
    step = make_train_step(graphdef, optimizer, optax.constant_schedule(0.1), settings, mesh)
    state = jax.device_put(create_state(weights, optimizer, averaging=averaging), replicated(mesh))
    return before, *step(state, put_batch(batch(), mesh))


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def smoothed_entropy(logits, labels, smoothing):
    """Inception V3, section 7: of the targets (1 - smoothing) * one-hot + smoothing / K."""
    targets = (1 - smoothing) * np.eye(logits.shape[-1])[labels] + smoothing / logits.shape[-1]
    return -(targets * log_softmax(logits)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_of_smoothed_labels(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(7, CLASSES)), rng.integers(0, CLASSES, 7)
    expected = smoothed_entropy(logits, labels, smoothing)
    actual = cross_entropy(jnp.float32(logits), jnp.int32(labels), label_smoothing=smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    if smoothing:
        assert np.abs(expected - smoothed_entropy(logits, labels, 0.0)).max() > 0.1


@pytest.mark.parametrize(("smoothing", "aux_weight"), [(0.0, 0.4), (0.1, 0.4), (0.1, 0.0), (0.0, 2.0)])
def test_step_descends_the_smoothed_loss_with_its_auxiliary_part(smoothing, aux_weight):
    """The loss, and each head's gradient: softmax minus targets, times the pictures."""
    loss_function = functools.partial(cross_entropy, label_smoothing=smoothing)
    settings = TrainSettings(loss=loss_function, aux_loss_weight=aux_weight)
    before, state, metrics = one_step(settings)
    data = batch()
    x = (data["image"].astype(np.float64) / 127.5 - 1).reshape(16, -1)
    targets = (1 - smoothing) * np.eye(CLASSES)[data["label"]] + smoothing / CLASSES
    loss = 0.0
    for head, weight in (("logits", 1.0), ("auxiliary", aux_weight)):
        logits = x @ before[head]["kernel"] + before[head]["bias"]
        loss += weight * smoothed_entropy(logits, data["label"], smoothing).mean()
        gradient = weight * x.T @ (np.exp(log_softmax(logits)) - targets) / 16
        after = np.asarray(state.weights.params[head]["kernel"], np.float64)
        np.testing.assert_allclose(after, before[head]["kernel"] - 0.1 * gradient, rtol=1e-5, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)


def test_settings_of_the_config_are_those_of_the_step(tiny):
    tiny.update(seed=3, label_smoothing=0.1, aux_loss_weight=0.3, average_decay=0.5, batch_size=16)
    tiny.optimizer.accumulate_steps = 2
    settings = create_recipe(experiment_lib.create(tiny)).settings
    assert settings.loss.keywords == {"label_smoothing": 0.1}
    assert (settings.seed, settings.aux_loss_weight, settings.average_decay) == (3, 0.3, 0.5)
    assert settings.accumulate_steps == 2


@pytest.mark.parametrize(("asked", "taken"), [(0, 0), (19, 19), (20, 10), (50, 10)])
def test_warmup_leaves_something_of_training(tiny, asked, taken):
    """Asked for all of 20 steps or more, it takes half of them: the peak is there after `taken` steps."""
    ours = schedule(tiny, 20, name="constant", warmup=f"{asked} steps")
    assert ours[:taken].max(initial=0) < ours[taken] == ours[-1] == pytest.approx(0.2)


def test_one_epoch_of_a_folder_says_how_long_its_warmup_is(tiny, capsys):
    from configs.folder import get_config

    config = get_config()
    config.num_epochs, config.batch_size, config.image_size = 1.0, 8, 32
    config.model, config.data = tiny.model, tiny.data
    summary.show(create_recipe(experiment_lib.create(config)))
    assert capsys.readouterr().out.endswith("the warm-up of 1 epochs would be all of the training; it takes 1 steps\n")


def schedule(tiny, total_steps, **changes):
    """The learning rate at each step, and one step more; an epoch is 2.5 steps."""
    tiny.learning_rate = 0.2
    tiny.schedule.update(changes)
    to_steps = functools.partial(in_steps, batch_size=8, num_examples=20)
    rate = create_schedule(tiny, total_steps=total_steps, in_steps=to_steps)
    return np.array([float(rate(step)) for step in range(total_steps + 1)])


@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_schedule(tiny, warmup, final_fraction):
    """Loshchilov and Hutter's, equation 5, between the peak and its fraction, after a line from 0."""
    ours = schedule(tiny, 20, name="cosine", warmup=f"{warmup} steps", final_fraction=final_fraction)
    low = 0.2 * final_fraction
    expected = [
        0.2 * t / warmup if t < warmup else
        low + (0.2 - low) / 2 * (1 + math.cos(math.pi * (t - warmup) / (20 - warmup)))
        for t in range(21)
    ]  # fmt: skip
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("staircase", [True, False])
def test_exponential_schedule_falls_in_steps_or_always(tiny, staircase):
    """By 0.94 every 2 epochs, which are 5 steps, counted from the end of the warm-up: half an epoch, 1 step."""
    ours = schedule(tiny, 23, warmup="0.5 epochs", staircase=staircase)
    since = np.arange(23)
    fallen = since // 5 if staircase else since / 5
    np.testing.assert_allclose(ours, [0.0, *0.2 * 0.94**fallen], rtol=1e-5)


def test_constant_schedule_is_constant_after_its_warmup(tiny):
    ours = schedule(tiny, 8, name="constant", warmup="4 steps")
    np.testing.assert_allclose(ours, [0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "steps"),
    [
        ({"num_epochs": 4.0}, 10),  # 20 pictures at 8 a step
        ({"num_epochs": 0.5}, 1),
        ({"num_examples": 90}, 11),
        ({"num_examples": 95, "num_epochs": 4.0}, 12),
        ({"num_steps": 5, "num_examples": 95}, 5),  # a few steps of a config that counts examples
        ({"num_steps": 7, "num_epochs": 4.0}, 7),
    ],
)
def test_length_of_training(tiny, lengths, steps):
    tiny.num_steps = None
    tiny.update(lengths)
    assert create_recipe(experiment_lib.create(tiny)).total_steps == steps


def test_training_of_no_step_is_refused(tiny):
    tiny.num_steps, tiny.num_epochs = None, 0.1
    with pytest.raises(UserError, match="less than one step"):
        create_recipe(experiment_lib.create(tiny))


def test_without_a_decay_nothing_is_averaged(tiny):
    tiny.average_decay = 0.0
    assert create_recipe(experiment_lib.create(tiny)).abstract_state.averaged is None
    _, state, _ = one_step(TrainSettings(average_decay=0.0))
    assert state.averaged is None
    assert state.evaluated(averaged=True) is state.weights


@pytest.mark.usefixtures("one_device")
def test_parameters_in_bfloat16(tiny):
    """They and their momentum are kept so; averages and statistics stay float32, and steps still descend the loss."""
    tiny.model.param_dtype, tiny.learning_rate, tiny.schedule.name = "bfloat16", 0.01, "constant"
    recipe = create_recipe(experiment_lib.create(tiny))
    state, mesh = recipe.initial_state(), recipe.experiment.mesh
    dtypes = {jax.tree_util.keystr(path): x.dtype for path, x in jax.tree_util.tree_leaves_with_path(state)}
    for path, dtype in dtypes.items():
        kept = "weights.params" in path or "trace" in path
        counter = path == ".step" or path.endswith(".count")
        assert dtype == ("bfloat16" if kept else "int32" if counter else "float32"), path
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 32, 32, 3), np.uint8), np.arange(8, dtype=np.int32) % 4
    losses = []
    for _ in range(6):
        state, metrics = recipe.train_step(state, put_batch({"image": images, "label": labels}, mesh))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert {x.dtype for x in jax.tree.leaves(state.weights.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("averaged", [True, False])
def test_weights_that_are_evaluated(tiny, tmp_path, averaged):
    """The network's own weights always say class 1, the averages class 2."""
    tiny.evaluation.averaged = averaged
    experiment = experiment_lib.create(tiny)
    state = create_recipe(experiment).initial_state()
    for weights, favoured in ((state.weights, 1), (state.averaged, 2)):
        bias = weights.params["head"]["logits"]["bias"]
        weights.params["head"]["logits"]["bias"] = bias.at[favoured].add(1000.0)
    tester = Evaluator(experiment, "test", eval_step(experiment))
    evaluated = state.evaluated(averaged=averaged)
    predictions, skipped = tester.predict(evaluated)
    assert len(predictions.ids) == 20
    assert set(predictions.top5[:, 0]) == {2 if averaged else 1}
    record = tester.certify(evaluated, predictions, skipped, tmp_path, step=0, averaged=averaged)
    assert record["metrics"]["top1"] == np.mean(predictions.labels == (2 if averaged else 1))
