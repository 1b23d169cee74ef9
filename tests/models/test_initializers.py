"""Random parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xception_jax.models import build_network
from xception_jax.models.inception_v3 import InceptionV3
from xception_jax.models.initializers import glorot_uniform

KEY = jax.random.key(3)


@pytest.mark.parametrize("shape", [(3, 3, 1, 728), (1, 1, 128, 256), (3, 3, 32, 64), (512, 40)])
def test_spread_is_that_of_jax(shape):
    ours, theirs = (np.asarray(f(KEY, shape)) for f in (glorot_uniform, jax.nn.initializers.glorot_uniform()))
    limit = np.abs(theirs).max()
    assert np.abs(ours).max() == pytest.approx(limit, rel=0.01)
    # Moments of numbers spread evenly over +-1, within five standard errors.
    for power, mean, deviation in ((1, 0, (1 / 3) ** 0.5), (2, 1 / 3, (4 / 45) ** 0.5)):
        assert np.mean((ours / limit) ** power) == pytest.approx(mean, abs=5 * deviation / np.sqrt(ours.size))


def test_same_numbers_however_it_is_called():
    keys = jax.random.split(KEY, 2)
    one, other = (np.asarray(glorot_uniform(key, (5, 7))) for key in keys)
    assert not np.isclose(one, other).any()
    np.testing.assert_array_equal(jax.jit(lambda key: glorot_uniform(key, (5, 7)))(keys[0]), one)
    np.testing.assert_array_equal(jax.vmap(lambda key: glorot_uniform(key, (5, 7)))(keys), [one, other])


def test_dtype():
    assert glorot_uniform(KEY, (5, 7), jnp.bfloat16).dtype == jnp.bfloat16


def test_keys_are_those_of_flax_streams():
    """One after another, and the stream goes on after the last."""
    ours, flax = nnx.Rngs(params=3, dropout=4), nnx.Rngs(params=3, dropout=4)
    for _ in range(2):
        a = build_network("inception_v3", num_classes=3, width=0.01, rngs=ours)
        b = InceptionV3(3, width=0.01, rngs=flax)
        for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (a, b)), strict=True):
            np.testing.assert_array_equal(x, y)
