"""That the suite checks annotations of arrays at all."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

from tests.annotations import check
from xception_jax.training.step import cross_entropy


def halves(x: Float[Array, "B C/G"], scale: Float[Array, " B"] | None, name) -> tuple[Float[Array, " B"], dict]:
    return (x.sum(1) if name == "sum" else x), {}


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ((jnp.ones((2, 3)), None, "sum"), True),
        ((np.ones((2, 3), np.float32), np.ones(2, np.float32), "sum"), True),
        ((jnp.ones((2, 3)), jnp.ones(3), "sum"), False),  # another B
        ((jnp.ones((2, 3), int), None, "sum"), False),
        ((jnp.ones(2), None, "sum"), False),
        ((jnp.ones((2, 3)), None, "nothing"), False),  # the result is no vector
    ],
)
def test_annotations_are_checked(arguments, right):
    checked = jaxtyped(halves, typechecker=check)
    if right:
        checked(*arguments)
    else:
        with pytest.raises(TypeCheckError):
            checked(*arguments)


def test_package_is_checked():
    labels = jnp.zeros(2, int)
    assert cross_entropy(jnp.zeros((2, 3)), labels).shape == (2,)
    with pytest.raises(TypeCheckError):
        cross_entropy(jnp.zeros((2, 3), int), labels)
