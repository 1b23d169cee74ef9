"""Parts of a network that training leaves as they are, and those that it trains more slowly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xception_jax import experiment as experiment_lib
from xception_jax.errors import UserError
from xception_jax.models import build_network, variables
from xception_jax.parallel.mesh import put_batch
from xception_jax.training.optimizers import by_part
from xception_jax.training.recipe import create_recipe

NETWORKS = [
    pytest.param("xception", {"middle_blocks": 0, "drop_path": 0.5}),
    pytest.param("inception_v3", {}, marks=pytest.mark.slow),
    pytest.param("xception41", {"drop_path": 0.5}, marks=pytest.mark.slow),
]


def differs(before, after):
    """The parts of a network of which some array is another."""
    return {
        name
        for name in before
        if any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before[name], after[name])))
    }


@pytest.fixture(scope="module")
def half_frozen(tiny_config):
    """Two steps of a network that is trained from block13 on: its state before and after, and the experiment."""
    config = tiny_config()
    config.train_from = "block13"
    config.optimizer.part_decay = 0.5
    experiment = experiment_lib.create(config)
    recipe = create_recipe(experiment)
    state = recipe.initial_state()
    before = jax.tree.map(np.asarray, state)
    rng = np.random.default_rng(0)
    for _ in range(2):
        image = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
        batch = put_batch({"image": image, "label": rng.integers(0, 4, 8).astype(np.int32)}, experiment.mesh)
        state, _ = recipe.train_step(state, batch)
    return before, jax.tree.map(np.asarray, state), experiment


def test_frozen_parts_keep_parameters_and_statistics(half_frozen):
    before, after, _ = half_frozen
    trained = {"block13", "block14", "head"}
    assert differs(before.weights.params, after.weights.params) == trained
    assert differs(before.weights.batch_stats, after.weights.batch_stats) == trained - {"head"}


def test_no_optimizer_state_of_frozen_parts(half_frozen):
    before, _, _ = half_frozen
    parts = [before.weights.params[name] for name in ("block13", "block14", "head")]
    trained = sum(x.size for x in jax.tree.leaves(parts))
    assert sum(x.size for x in jax.tree.leaves(before.opt_state) if x.ndim) == trained


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_all_frozen_is_inference(name, options):
    """Keras' users lost 16 points to a frozen network that normalized with the batch's statistics (keras#9965)."""
    model = build_network(name, num_classes=3, rngs=nnx.Rngs(0), stem="small", width=0.01, dropout=0.5, **options)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    _, weights = variables.split(model)
    inference = model(images, train=False)
    model.frozen = model.parts
    np.testing.assert_array_equal(model(images, train=True), inference)
    assert not differs(weights.batch_stats, variables.split(model)[1].batch_stats)


def test_parts_are_in_the_order_of_the_computation():
    assert build_network("inception_v3", num_classes=3, rngs=nnx.Rngs(0), width=0.01, aux_head=True).parts == (
        "stem", *(f"mixed{i}" for i in range(8)), "aux", "mixed8", "mixed9", "mixed10", "head",
    )  # fmt: skip


def test_earlier_parts_are_slower():
    """By hand: SGD at rate 1 of gradients that are all 1."""
    params = {name: {"kernel": jnp.zeros(2)} for name in ("stem", "middle", "head")}
    optimizer = by_part(optax.sgd(1.0), ("stem", "middle", "head"), ("stem",), 0.25)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    assert {name: float(part["kernel"][0]) for name, part in updates.items()} == {
        "stem": 0.0, "middle": -0.25, "head": -1.0,
    }  # fmt: skip


def test_an_unknown_part_is_refused(tiny):
    tiny.train_from = "blok13"
    with pytest.raises(UserError, match='"blok13", which is not a part of the network; did you mean "block13"'):
        experiment_lib.create(tiny)
