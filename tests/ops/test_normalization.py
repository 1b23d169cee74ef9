"""Batch normalization against its definition in float64: results, statistics, gradients, second derivatives."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax import ops

EPSILON = 1e-3
FEW = settings(max_examples=5, deadline=None, derandomize=True)


def arguments(shape, dtype=np.float32, offset=0.0):
    rng = np.random.default_rng(0)
    x = rng.normal(offset, 2, shape).astype(dtype)
    return x, rng.uniform(0.5, 2, shape[-1]).astype(np.float32), rng.normal(size=shape[-1]).astype(np.float32)


def by_definition(x, scale, bias):
    """(result, mean, variance), as section 3 of the paper writes them."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    row = (1,) * (x.ndim - 1) + (-1,)
    y = (x - mean) / jnp.sqrt(variance + EPSILON) * scale.reshape(row) + bias.reshape(row)
    return y, mean.ravel(), variance.ravel()


def ours(x, scale, bias):
    return ops.batch_norm(x, scale, bias, EPSILON)


def derivatives(f, *args):
    """The results, the gradients of a loss of all three of them, and its second derivative along a direction."""

    def loss(*args):
        y, mean, variance = f(*args)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(mean)) + jnp.sum(jnp.sqrt(variance))

    gradients = jax.grad(loss, argnums=(0, 1, 2))
    first, second = jax.jvp(gradients, args, tuple(jnp.cos(a) for a in args))
    return *f(*args), *first, *second


@FEW
@given(shape=st.sampled_from([(2, 3, 5, 4), (7, 6), (1, 8, 8, 3)]), offset=st.sampled_from([0.0, 3.0]))
def test_derivatives(shape, offset):
    args = arguments(shape, offset=offset)
    mine = jax.jit(lambda *args: derivatives(ours, *args))(*args)
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in args]
        exact = jax.jit(lambda *args: derivatives(by_definition, *args))(*wide)
    for a, b in zip(mine, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max(), rtol=0)


def test_short_floats_lose_no_more_than_their_own_rounding():
    """Statistics and gradients of bfloat16 inputs are those of the same numbers in float32."""
    x, scale, bias = arguments((4, 9, 9, 5))
    short = jnp.asarray(x, jnp.bfloat16)
    for a, b in zip(
        derivatives(ours, short, scale, bias)[:6],
        derivatives(ours, short.astype(jnp.float32), scale, bias)[:6],
        strict=True,
    ):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * np.abs(b).max(), rtol=0)


def test_backward_pass_keeps_nothing_but_the_input():
    x, scale, bias = arguments((2, 8, 8, 16))
    kept = jax.eval_shape(lambda *args: jax.vjp(ours, *args)[1], jnp.asarray(x, jnp.bfloat16), scale, bias)
    large = [a for a in jax.tree.leaves(kept) if a.size >= x.size]
    assert [(a.shape, a.dtype) for a in large] == [(x.shape, jnp.bfloat16)]


def test_sharded_batch_has_the_whole_batch_s_statistics():
    mesh = jax.make_mesh((8,), ("data",))
    x, scale, bias = arguments((16, 3, 3, 4))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for a, b in zip(jax.jit(ours)(split, scale, bias), by_definition(x, scale, bias), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scale_and_shift_are_batch_norm_by_given_statistics():
    x, scale, bias = arguments((2, 3, 5, 4))
    y, mean, variance = by_definition(x, scale, bias)
    np.testing.assert_allclose(ops.affine(x, *ops.scale_and_shift(mean, variance, scale, bias, EPSILON)), y, atol=1e-5)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_variance_of_a_constant_is_not_negative(value):
    """Rounding of the one-pass formula must not make it so."""
    x = np.full((2, 7, 7, 3), value, np.float32) + np.float32(0.1)
    y, _, variance = ours(x, np.ones(3, np.float32), np.zeros(3, np.float32))
    assert np.all(variance >= 0)
    assert np.all(np.isfinite(y))
