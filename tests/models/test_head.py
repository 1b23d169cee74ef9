"""Heads as chains of steps, against the same in NumPy, and what cannot be a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from xception_jax.errors import UserError
from xception_jax.models import build_network, variables
from xception_jax.models.head import ACTIVATIONS, Head, Step, as_text, parse

STEPS = st.one_of(
    st.tuples(st.integers(1, 9), st.booleans()).map(lambda drawn: Step("dense", drawn[0], bias=drawn[1])),
    st.sampled_from(["batch_norm", "layer_norm", *ACTIVATIONS]).map(Step),
    st.sampled_from([0.1, 0.5]).map(lambda rate: Step("dropout", rate)),
)


@given(st.sampled_from([(), (Step("max_pool"),), (Step("flatten", size=(3, 2)),)]), st.lists(STEPS, max_size=5))
def test_text_says_all(pool, steps):
    assert parse(as_text((*pool, *steps))) == (*pool, *steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dence 8", 'unknown step "dence"; did you mean "dense"'),
        ("dense", '"dense" lacks its number'),
        ("dense 8 rleu", '"rleu" after dense 8 is not understood'),
        ("dropout a", "lacks its number, or has a wrong one"),
        ("flatten", "lacks its number"),
        ("relu, max_pool", "max_pool must come first"),
    ],
)
def test_what_is_no_head_ends_in_one_line(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


def test_a_chain_is_what_numpy_computes():
    head = Head(4, 3, steps=parse("max_pool, dense 5 tanh, layer_norm 0.01, dropout 0.5, relu"), rngs=nnx.Rngs(0))
    maps = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    x = np.tanh(maps.max((1, 2)) @ np.asarray(head.hidden[0].kernel[...]))
    x = np.maximum((x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01), 0)
    expected = x @ np.asarray(head.logits.kernel[...])
    np.testing.assert_allclose(head(maps, train=False, rngs=None), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["xception", "inception_v3", "xception41"])
def test_hidden_layers_are_a_head(name):
    """The same network, by both options."""

    def shapes(**options):
        build = lambda: build_network(name, num_classes=3, rngs=nnx.Rngs(0), width=0.05, **options)  # noqa: E731
        return nnx.eval_shape(lambda: variables.split(build()))[1]

    assert shapes(hidden=(8, 6)) == shapes(head="dense 8 relu, dense 6 relu")


def test_both_options_are_one_too_many():
    with pytest.raises(UserError, match=r'both head="relu" and hidden=\(8,\)'):
        build_network("xception", width=0.05, head="relu", hidden=(8,), rngs=nnx.Rngs(0))


def test_a_flattened_map_has_its_size():
    head = Head(4, 3, steps=parse("flatten 2x2"), rngs=nnx.Rngs(0))
    assert head(jnp.ones((1, 2, 2, 4)), train=False, rngs=None).shape == (1, 3)
    with pytest.raises(UserError, match="the head takes maps of 2x2 pixels, but images of this size have 3x3"):
        head(jnp.ones((1, 3, 3, 4)), train=False, rngs=None)


def test_dropout_acts_in_training_only():
    head = Head(4, 3, steps=parse("dropout 0.5"), rngs=nnx.Rngs(0))
    maps = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    still = head(maps, train=False, rngs=None)
    assert not np.allclose(head(maps, train=True, rngs=nnx.Rngs(dropout=1)), still)
