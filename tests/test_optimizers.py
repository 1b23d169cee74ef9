"""Optimizers against their recurrences, written out in NumPy; schedules against the paper's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.peers import libraries, timm_module
from xception_jax.config import default
from xception_jax.training.optimizers import OPTIMIZERS, create_optimizer, is_kernel

PARAMS = {"layer": {"kernel": np.float64([[1.0, -2.0], [0.5, 3.0]]), "bias": np.float64([0.3, -0.1])}}


def gradients(num_steps=4):
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda x: rng.normal(size=x.shape), PARAMS) for _ in range(num_steps)]


def run(**changes):
    """The parameters after four steps at a learning rate of 0.1."""
    config = default()
    config.optimizer.update(changes)
    optimizer = create_optimizer(config.optimizer, optax.constant_schedule(0.1))
    params = jax.tree.map(jnp.float32, PARAMS)
    state = optimizer.init(params)
    for gradient in gradients():
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params["layer"]


def test_sgd_adds_decay_to_the_gradient_of_kernels():
    ours = run(name="sgd", momentum=0.9, weight_decay=0.01)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        w, velocity = PARAMS["layer"][name], 0.0
        for gradient in gradients():
            velocity = 0.9 * velocity + gradient["layer"][name] + decay * w
            w = w - 0.1 * velocity
        np.testing.assert_allclose(ours[name], w, rtol=1e-5)


def test_nesterov_looks_ahead():
    """As PyTorch has it: the step is along the gradient and the velocity that it has just changed."""
    ours = run(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.01)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        w, velocity = PARAMS["layer"][name], 0.0
        for gradient in gradients():
            g = gradient["layer"][name] + decay * w
            velocity = 0.9 * velocity + g
            w = w - 0.1 * (g + 0.9 * velocity)
        np.testing.assert_allclose(ours[name], w, rtol=1e-5)


def test_rmsprop_is_tensorflow_s():
    """The accumulator starts at one, epsilon is inside the root, the learning rate inside the momentum."""
    ours = run(name="rmsprop", momentum=0.9, weight_decay=0.01)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        w, square, velocity = PARAMS["layer"][name], 1.0, 0.0
        for gradient in gradients():
            g = gradient["layer"][name] + decay * w
            square = 0.9 * square + 0.1 * g**2
            velocity = 0.9 * velocity + 0.1 * g / np.sqrt(square + 1.0)
            w = w - velocity
        np.testing.assert_allclose(ours[name], w, rtol=1e-5)


def test_adamw_decays_apart_from_the_gradient():
    ours = run(name="adamw", momentum=0.9, weight_decay=0.01)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        w, m, v = PARAMS["layer"][name], 0.0, 0.0
        for t, gradient in enumerate(gradients(), start=1):
            g = gradient["layer"][name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * w)
        np.testing.assert_allclose(ours[name], w, rtol=1e-4)


def test_lamb_scales_the_steps_of_kernels_by_their_norms():
    ours = run(name="lamb", momentum=0.9, weight_decay=0.01)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        w, m, v = PARAMS["layer"][name], 0.0, 0.0
        for t, gradient in enumerate(gradients(), start=1):
            g = gradient["layer"][name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * w
            ratio = np.linalg.norm(w) / np.linalg.norm(step) if name == "kernel" else 1.0
            w = w - 0.1 * ratio * step
        np.testing.assert_allclose(ours[name], w, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("Lamb", {"name": "lamb", "clip_norm": 1.0}, {}),
        ("RMSpropTF", {"name": "rmsprop", "epsilon": 1e-3}, {"momentum": 0.9, "alpha": 0.9, "eps": 1e-3}),
    ],
)
def test_timm_s_optimizers_take_the_same_steps(name, ours, theirs):
    """As its recipes set them; biases are not decayed."""
    torch, *_ = libraries()
    params = {key: torch.nn.Parameter(torch.from_numpy(np.float32(x))) for key, x in PARAMS["layer"].items()}
    groups = [{"params": [params["kernel"]], "weight_decay": 0.01}, {"params": [params["bias"]], "weight_decay": 0.0}]
    optimizer = getattr(timm_module("optim"), name)(groups, lr=0.1, **theirs)
    for gradient in gradients():
        for key, parameter in params.items():
            parameter.grad = torch.from_numpy(np.float32(gradient["layer"][key]))
        optimizer.step()
    expected = {key: parameter.detach().numpy() for key, parameter in params.items()}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), run(weight_decay=0.01, **ours), expected)


@pytest.mark.parametrize("name", [*OPTIMIZERS])
def test_clipping_bounds_the_whole_gradient(name):
    """Gradients far beyond the bound are those of the bound: scaling all of them changes nothing."""
    config = default()
    config.optimizer.update(name=name, clip_norm=0.01, weight_decay=0.0)
    optimizer = create_optimizer(config.optimizer, optax.constant_schedule(0.1))
    params = jax.tree.map(jnp.float32, PARAMS)
    gradient = jax.tree.map(jnp.float32, gradients(1)[0])

    def update(factor):
        scaled = jax.tree.map(lambda g: factor * g, gradient)
        return optimizer.update(scaled, optimizer.init(params), params)[0]["layer"]["kernel"]

    np.testing.assert_allclose(update(1.0), update(100.0), rtol=1e-5)
    assert not np.allclose(update(1.0), update(-1.0))


def test_the_state_of_lamb_is_as_in_earlier_checkpoints():
    params = {"a": {"kernel": jnp.ones((2, 2))}}
    before = optax.lamb(optax.constant_schedule(0.1), weight_decay=0.1, mask=is_kernel).init(params)
    now = OPTIMIZERS.find("lamb")(
        optax.constant_schedule(0.1), momentum=0.9, decay=None, epsilon=None, weight_decay=0.1
    ).init(params)
    assert jax.tree.structure(now) == jax.tree.structure(before)
