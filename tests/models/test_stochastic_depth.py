"""Stochastic depth: which paths are dropped, how often, and what is left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import peers
from xception_jax.models import build_network, variables

NAMES = ["xception", "xception41", "xception41p"]


def network(name, **options):
    return peers.tiny(name, stem="small", **options)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def run(graphdef, weights, x, seed, block):
    """Training: the network's logits, or a block's output and its shortcut's."""
    model = variables.merge(graphdef, weights)
    rngs = nnx.Rngs(dropout=seed)
    if not block:
        return model(x, train=True, rngs=rngs)
    block = getattr(model, block)
    output = block(x, train=True, rngs=rngs)
    if hasattr(block, "shortcut_bn"):
        return (output[1] if isinstance(output, tuple) else output), x
    return output[1], nnx.relu(block.norms[0](x, use_running_average=False))  # pre-activation


@pytest.mark.parametrize("name", NAMES)
def test_main_path_is_dropped_for_whole_images_and_kept_in_expectation(name):
    """A middle block, whose shortcut is the identity: a picture's main path is zero or scaled by 1 / (1 - rate)."""
    rate = 0.25
    index, blocks = 6, 13
    graphdef, weights = network(name, drop_path=rate * (blocks - 1) / (index - 2))
    plain, _ = network(name)
    channels = weights.params[f"block{index}"]["sepconvs"][0]["depthwise"]["kernel"].shape[-1]
    x = np.random.default_rng(0).normal(size=(2000, 2, 2, channels)).astype(np.float32)
    dropped, shortcut = run(graphdef, weights, x, 3, f"block{index}")
    whole, _ = run(plain, weights, x, 3, f"block{index}")
    left, main = np.asarray(dropped - shortcut), np.asarray(whole - shortcut)
    kept = np.abs(left).max((1, 2, 3)) > 1e-3 * np.abs(main).max((1, 2, 3))
    np.testing.assert_allclose(left[kept], main[kept] / (1 - rate), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(left[~kept], 0, atol=1e-5)
    # Five standard deviations of a binomial share.
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / len(x))


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_rates_are_timm_s(name):
    torch, _, timm = peers.libraries()
    with torch.device("meta"):
        twin = timm.create_model(name, drop_path_rate=0.3)
    expected = [0.0 if b.drop_path is None else b.drop_path.drop_prob for b in twin.blocks]
    model = nnx.eval_shape(lambda: build_network(name, rngs=nnx.Rngs(0), drop_path=0.3))
    rates = [getattr(model, f"block{i + 2}").drop_path.rate for i in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_rates_rise_linearly_in_xception():
    model = nnx.eval_shape(lambda: build_network("xception", rngs=nnx.Rngs(0), drop_path=0.24))
    rates = [getattr(model, f"block{i}").drop_path.rate for i in range(2, 14)]
    np.testing.assert_allclose(rates, 0.02 * np.arange(12), atol=1e-12)


def test_acts_in_training_only_and_follows_the_key():
    graphdef, weights = network("xception", drop_path=0.5)
    plain, _ = network("xception")
    x = peers.pictures(32, batch=4)
    with_rates, without = (str(jax.make_jaxpr(peers.run_ours, 0)(g, weights, x)) for g in (graphdef, plain))
    assert with_rates == without
    first, again, other = (np.asarray(run(graphdef, weights, jnp.asarray(x), seed, "")) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
