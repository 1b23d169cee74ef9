"""Components of one's own: by which name they are found, and what they are called with."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xception_jax.extension.names import name_of, parameters, tells_apart
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


class Focal:
    """A loss with a state."""

    def __call__(self, logits, labels):
        return powered(logits, labels)


def test_a_partial_is_called_by_what_it_sets():
    partial = functools.partial(functools.partial(powered, 1, scale=(1, 2)), gamma=2.0)
    names = [name_of(powered), name_of(partial), name_of(functools.partial(Focal, powered, "a"))]
    assert names == [
        f"{__name__}:powered",
        f"{__name__}:powered(1, gamma=2.0, scale=(1, 2))",
        f"{__name__}:Focal({__name__}:powered, 'a')",
    ]
    assert all(map(tells_apart, (powered, partial, Focal, jnp.mean)))


@pytest.mark.parametrize(
    "thing",
    [
        lambda logits, labels: logits[:, 0],
        functools.partial(lambda logits, labels, gamma: logits[:, 0], gamma=1),
        functools.partial(powered, gamma=np.ones(2)),
        Focal(),
        Focal().__call__,
    ],
)
def test_what_has_no_name_of_its_own(thing):
    """Lambdas and local functions, and what has a state that the name does not tell."""
    assert not tells_apart(thing)
