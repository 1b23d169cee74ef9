"""Components of one's own: by which name they are found, and what they are called with."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xception_jax.extension.names import parameters
from xception_jax.tasks.losses import with_options


def powered(logits, labels, *, gamma=1.0, scale=1.0):
    """A loss of one's own."""
    return scale * (logits[:, 0] - labels) ** gamma


class Network(nnx.Module):
    """Its metaclass hides its signature."""

    def __init__(self, num_classes, *, rngs, channels, depth=2):
        pass


def test_what_a_partial_sets_is_not_set_again():
    """The square, whatever the settings say; what it leaves open follows them."""
    loss = with_options(functools.partial(powered, gamma=2.0), {"gamma": 3.0, "scale": 10.0})
    np.testing.assert_array_equal(loss(jnp.float32([[5], [2]]), jnp.float32([2, 2])), [90, 0])


def test_parameters_are_what_may_be_set():
    assert parameters(Network) == ("num_classes", "rngs", "channels", "depth")
    assert parameters(functools.partial(Network, 3, depth=1)) == ("rngs", "channels")
    assert parameters(functools.partial(functools.partial(powered, gamma=1), scale=2)) == ("logits", "labels")
