"""Components of one's own: by which name they are found, and what they are called with."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry, name_of, parameters, tells_apart
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


class Inner:
    own = powered


NOT_A_FUNCTION = 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine", r'unknown loss "mine"; choose from: plain \(a name that another program registered is not known here'),
        (
            f"{__name__}:<lambda>",
            r'loss ".*:<lambda>" was given from Python, .* give it again .*source=',
        ),
        (f"{__name__}:powered(gamma=2.0)", "was given from Python"),
        ("__main__:open_it", "was given from Python"),
        (f"{__name__}:poward", 'has no poward; did you mean "powered"'),
        (f"{__name__}:Registry", None),
        (f"{__name__}:NOT_A_FUNCTION", "is of type int; name a function or a class"),
        ("xception_jax.version:number", "xception_jax.version has no number; it defines no functions or classes"),
    ],
)
def test_what_is_not_found_is_said_with_what_to_do(name, message):
    registry = Registry("loss", {"plain": powered})
    if message is None:
        assert registry.find(name) is Registry
        return
    with pytest.raises(UserError, match=message):
        registry.find(name)


def test_only_what_a_module_defines_is_suggested():
    """Not what it imports."""
    with pytest.raises(UserError) as error:
        Registry("loss", {}).find(f"{__name__}:zzz")
    assert "Focal, Inner, Network, powered" in str(error.value)
    assert "Registry" not in str(error.value)
    assert "UserError" not in str(error.value)


def test_what_is_inside_of_a_class_is_found():
    assert Registry("loss", {}).find(f"{__name__}:Inner.own") is powered


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("plain", powered, '"plain" is a built-in loss; register yours under another name'),
        ("mine", 3, 'loss "mine" is of type int; register a function or a class'),
        ("a:b", powered, "names with a colon are for imports"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, thing, message):
    """A built-in name would be found before it, or after it."""
    registry = Registry("loss", {"plain": powered})
    with pytest.raises(UserError, match=message):
        registry.register(name, thing)
    registry.register("mine", powered)
    registry.register("mine", Focal)  # a cell of a notebook that is run again
    assert registry.find("mine") is Focal
