"""`model.train()` and `model.eval()` as elsewhere in NNX, and images as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import xception_jax
from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec, Normalization

SMALL = {"stem": "small", "width": 0.01, "middle_blocks": 0, "bn_momentum": 0.5}


def network(**options):
    return xception_jax.create_model("xception", num_classes=4, rngs=nnx.Rngs(0), **SMALL, **options)


def images(seed=0):
    return jnp.float32(np.random.default_rng(seed).uniform(-1, 1, (4, 32, 32, 3)))


def statistics(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def test_a_new_network_is_in_inference_mode():
    model = network(dropout=0.5)
    before = statistics(model)
    np.testing.assert_array_equal(model(images()), model(images()))
    jax.tree.map(np.testing.assert_array_equal, statistics(model), before)


def test_train_uses_the_batch_and_updates_the_running_statistics():
    """The first layer's statistics afterwards, against NumPy; an image's logits depend on the rest of its batch."""
    others = jnp.concatenate([images()[:1], images(1)[1:]])
    model, same = network(), network()
    model.train()
    same.train()
    convolved = np.asarray(model.block1.conv1(images()), np.float64)
    assert not np.allclose(model(images())[:1], same(others)[:1])
    np.testing.assert_allclose(
        statistics(model)["block1"]["conv1_bn"]["mean"], 0.5 * convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    model.eval()
    kept = statistics(model)
    np.testing.assert_allclose(model(images())[:1], model(others)[:1], rtol=1e-3, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, statistics(model), kept)


def test_train_drops_by_the_generator_given():
    model = network(dropout=0.5)
    model.train()

    def logits(seed):
        return network_like(model)(images(), rngs=nnx.Rngs(dropout=seed))

    np.testing.assert_array_equal(logits(1), logits(1))
    assert not np.allclose(logits(1), logits(2))
    np.testing.assert_array_equal(
        network_like(model)(images(), train=False), network_like(model)(images(), train=False)
    )


def network_like(model):
    """A copy, whose statistics are its own."""
    return nnx.merge(*nnx.split(model))


def test_a_loop_as_flax_s_examples_have_it_learns():
    """nnx.Optimizer, nnx.value_and_grad and nnx.jit over the module itself."""
    model, labels = network(), jnp.arange(4)
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)

    def loss_fn(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images()), labels).mean()

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    model.train()
    losses = [float(step(model, optimizer)) for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


def test_preprocess_is_what_the_input_specification_says():
    """Of a constant image every crop and resize is that constant; the range is NumPy's arithmetic."""
    model = network()
    model.input_spec = InputSpec(32, 0.875, "bilinear", Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    colour = np.uint8([10, 100, 200])
    several = [np.broadcast_to(colour, (40, 70, 3)), np.broadcast_to(colour, (90, 33, 3))]
    expected = (colour / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    for given, count in ((several, 2), (several[0], 1), (np.stack([several[0]] * 3), 3)):
        ready = model.preprocess(given)
        assert ready.shape == (count, 32, 32, 3)
        np.testing.assert_allclose(ready, np.broadcast_to(expected, ready.shape), rtol=1e-5)


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8, 3), np.float32), ((2, 8, 8), np.uint8), ((8, 8, 4), np.uint8)])
def test_what_are_not_images_is_refused(shape, dtype):
    with pytest.raises(UserError, match=r"images must be uint8 \[height, width, 3\]"):
        network().preprocess(np.zeros(shape, dtype))
