"""The compiled steps: what they compute, and how."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xception_jax import ops
from xception_jax.evaluation.step import make_eval_step
from xception_jax.inputs.spec import Normalization
from xception_jax.models import build_network, variables
from xception_jax.models.variables import Weights, num_bytes
from xception_jax.ops import kernels
from xception_jax.parallel.mesh import data_mesh, put_batch, replicated
from xception_jax.training.state import create_state
from xception_jax.training.step import TrainSettings, make_train_step

NUM_CLASSES = 4


def small_model(**options):
    options = {"stem": "small", "width": 0.01, "middle_blocks": 1, "bn_momentum": 0.9, **options}
    return build_network("xception", num_classes=NUM_CLASSES, rngs=nnx.Rngs(0), **options)


def batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 32, 32, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, size).astype(np.int32),
    }


@dataclasses.dataclass
class Fixture:
    """A step and a maker of its first state."""

    step: object
    mesh: object
    graphdef: object
    weights: Weights
    optimizer: optax.GradientTransformation

    def state(self):
        fresh = jax.tree.map(jnp.copy, self.weights)
        state = create_state(fresh, self.optimizer, averaging=True)
        return jax.device_put(state, replicated(self.mesh))


def build(num_devices=8, settings=None, learning_rate=0.1, schedule=None, **options):
    graphdef, weights = variables.split(small_model(**options))
    optimizer, mesh = optax.sgd(learning_rate, 0.9), data_mesh(jax.devices()[:num_devices])
    settings = settings or TrainSettings(average_decay=0.9)
    schedule = schedule or optax.constant_schedule(learning_rate)
    step = make_train_step(graphdef, optimizer, schedule, settings, mesh)
    return Fixture(step, mesh, graphdef, weights, optimizer)


def losses(fixture, num_steps=3):
    state, result = fixture.state(), []
    for i in range(num_steps):
        state, metrics = fixture.step(state, put_batch(batch(seed=i), fixture.mesh))
        result.append(float(metrics["loss"]))
    return result, state


TRACES = []


def traced(step):
    """A schedule that notes that it is traced."""
    TRACES.append(step)
    return jnp.float32(0.1)


@pytest.fixture(scope="module")
def fixture():
    return build(dropout=0.5, schedule=traced)


@pytest.fixture(scope="module")
def compiled(fixture):
    return fixture, fixture.step.lower(fixture.state(), put_batch(batch(), fixture.mesh)).compile()


def test_step_is_traced_once(fixture):
    """Whatever the tests of this module did with it before."""
    losses(fixture, 3)
    assert len(TRACES) == 1


def test_step_moves_nothing_between_host_and_devices(fixture):
    state, data = fixture.state(), put_batch(batch(), fixture.mesh)
    with jax.transfer_guard("disallow"):
        fixture.step(state, data)


def test_every_buffer_of_the_state_is_donated(compiled):
    fixture, program = compiled
    assert program.memory_analysis().alias_size_in_bytes == num_bytes(fixture.state())


def test_step_reduces_but_gathers_nothing(compiled):
    text = compiled[1].as_text()
    assert "all-reduce" in text
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)


def test_gradients_cross_the_devices_once(compiled):
    """Every parameter's gradient, and two statistics a batch normalization each way, and nothing besides scalars."""
    fixture, program = compiled
    results = [line.split(" all-reduce(")[0] for line in program.as_text().splitlines() if " all-reduce(" in line]
    shapes = [dims for result in results for dims in re.findall(r"f32\[([\d,]*)\]", result)]
    elements = sum(int(np.prod([int(d) for d in dims.split(",") if d])) for dims in shapes)
    params = sum(x.size for x in jax.tree.leaves(fixture.weights.params))
    stats = sum(x.size for x in jax.tree.leaves(fixture.weights.batch_stats))
    assert params <= elements <= params + 3 * stats + 64


@pytest.mark.slow
def test_what_gpus_keep_of_the_forward_pass_changes_no_loss():
    """They keep less than automatic differentiation would, and compute the rest again."""
    losses_on = {}
    for platform in ("cpu", "gpu"):
        with ops.for_platform(platform):
            fixture = build(2, learning_rate=1e-4, dropout=0.5)  # lower than what rounding could magnify
            jaxpr = str(jax.make_jaxpr(fixture.step)(fixture.state(), batch()))
            assert ("remat" in jaxpr) == (platform == "gpu")
            losses_on[platform] = losses(fixture, 2)[0]
    np.testing.assert_allclose(losses_on["gpu"], losses_on["cpu"], rtol=2e-4)


@pytest.mark.slow
def test_tpus_have_two_kernels_a_separable_convolution_and_two_a_pool(monkeypatch):
    """Of blocks 2 to 4 and 13, except the convolution of block 2 that takes 64 channels; in parts of the batch too."""
    monkeypatch.setattr(kernels, "device_kind", lambda: "TPU v5 lite")
    with ops.for_platform("tpu"):
        fixture = build(2, TrainSettings(accumulate_steps=2), width=1, middle_blocks=0, dtype="bfloat16")
        lowered = fixture.step.trace(fixture.state(), batch(32)).lower(lowering_platforms=("tpu",))
    calls = [line for line in lowered.as_text().splitlines() if "@tpu_custom_call" in line]
    assert len(calls) == 2 * (7 + 4)
    # [H, W, B, C], and the mesh has split a part's 16 pictures before them.
    assert all(re.search(r"tensor<(\d+)x\1x8x\d+xbf16>", line) for line in calls)


def test_bfloat16_is_used_where_it_was_asked_for():
    fixture = build(dtype="bfloat16")
    jaxpr = str(jax.make_jaxpr(fixture.step)(fixture.state(), batch()))
    products = re.findall(r":(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general)\[", jaxpr)
    # But for the logits and the gradients of their two factors.
    assert (products.count("f32"), set(products)) == (3, {"f32", "bf16"})
    state, _ = jax.eval_shape(fixture.step, fixture.state(), batch())
    assert {x.dtype for x in jax.tree.leaves(state.weights)} == {jnp.dtype("float32")}


class Biases(nnx.Module):
    """Logits that are the network's only parameter, in bfloat16."""

    def __init__(self):
        self.bias = nnx.Param(jnp.zeros(NUM_CLASSES, jnp.bfloat16))

    def __call__(self, images, train, rngs):
        return jnp.broadcast_to(self.bias[...].astype(jnp.float32), (images.shape[0], NUM_CLASSES))


def test_gradients_of_bfloat16_parameters_are_added_in_float32():
    """Each of 512 parts has a gradient of 1: so has their mean. Added in bfloat16, they would not get past 256."""
    graphdef, weights = variables.split(Biases())
    optimizer, mesh = optax.sgd(1.0), data_mesh(jax.devices()[:1])
    settings = TrainSettings(accumulate_steps=512, loss=lambda logits, labels: logits.sum(-1))
    step = make_train_step(graphdef, optimizer, optax.constant_schedule(1.0), settings, mesh)
    data = {"image": np.zeros((512, 1, 1, 3), np.uint8), "label": np.zeros(512, np.int32)}
    state, _ = step(create_state(weights, optimizer, averaging=False), put_batch(data, mesh))
    bias = state.weights.params["bias"]
    assert bias.dtype == jnp.bfloat16
    np.testing.assert_array_equal(bias, np.full(NUM_CLASSES, -1, bias.dtype))


def test_batch_statistics_are_the_global_batch_s(fixture):
    """After one step the running mean of the first layer is that of all 16 pictures, whatever device saw them."""
    images = batch()["image"].astype(np.float64) / 127.5 - 1
    kernel = np.asarray(fixture.weights.params["block1"]["conv1"]["kernel"], np.float64)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = sum(padded[:, i : i + 32, j : j + 32] @ kernel[i, j] for i in range(3) for j in range(3))
    _, state = losses(fixture, 1)
    stats = state.weights.batch_stats["block1"]["conv1_bn"]
    np.testing.assert_allclose(stats["mean"], 0.1 * maps.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * maps.var((0, 1, 2)), rtol=1e-4)


def test_averages_follow_the_recurrence(fixture):
    state = fixture.state()
    expected = jax.tree.map(lambda x: np.asarray(x, np.float64), state.weights)
    for i in range(3):
        state, _ = fixture.step(state, put_batch(batch(seed=i), fixture.mesh))
        decay = min(0.9, (1 + i) / (10 + i))
        expected = jax.tree.map(
            lambda a, w, d=decay: d * a + (1 - d) * np.asarray(w, np.float64), expected, state.weights
        )
    for a, b in zip(jax.tree.leaves(state.averaged), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_evaluation_step_is_softmax_of_the_logits():
    model = small_model()
    graphdef, weights = variables.split(model)
    mesh = data_mesh()
    data = batch()
    outputs = make_eval_step(graphdef, NUM_CLASSES, mesh, Normalization())(weights, put_batch(data, mesh))
    logits = np.asarray(nnx.jit(model)(jnp.asarray(data["image"], jnp.float32) / 127.5 - 1), np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(outputs["confidence"], p.max(1), rtol=1e-4)
    np.testing.assert_allclose(outputs["loss"], -np.log(p[np.arange(16), data["label"]]), rtol=1e-4)
    np.testing.assert_array_equal(outputs["top5"], np.argsort(-p, 1))
