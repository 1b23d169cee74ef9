"""The separable convolution with its normalization, as GPUs do it, against the same in `lax`, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax import ops
from xception_jax.parallel.mesh import data_mesh

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def platform():
    with ops.for_platform("gpu"):
        yield


def arguments(batch=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    x, depthwise, pointwise = normal(batch, 7, 6, 5), normal(3, 3, 1, 5), normal(1, 1, 5, 8)
    return x.astype(dtype), normal(5), normal(5), depthwise.astype(dtype), pointwise.astype(dtype)


def by_definition(x, scale, shift, depthwise, pointwise, *, relu, dilation):
    x = x * scale.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)
    x = jnp.maximum(x, 0) if relu else x
    x = lax.conv_general_dilated(
        x, depthwise, (1, 1), [(dilation, dilation)] * 2, rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC, feature_group_count=5,
    )  # fmt: skip
    y = lax.conv_general_dilated(x, pointwise, (1, 1), "VALID", dimension_numbers=NHWC)
    return y, y.mean((0, 1, 2)), y.var((0, 1, 2))


def derivatives(f, *args):
    """The results, the gradients of a loss of all three of them, and its second derivative along a direction."""

    def loss(*args):
        y, mean, variance = f(*args)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(mean)) + jnp.sum(jnp.sqrt(variance))

    gradients = jax.grad(loss, argnums=range(5))
    first, second = jax.jvp(gradients, args, tuple(jnp.cos(a) for a in args))
    return *f(*args), *first, *second


@pytest.mark.parametrize(("relu", "dilation"), [(True, 1), (False, 2)])
def test_derivatives(relu, dilation):
    options = {"relu": relu, "dilation": dilation}
    args = arguments()
    mine = jax.jit(lambda *a: derivatives(lambda *a: ops.normalized_separable_conv(*a, **options), *a))(*args)
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in args]
        exact = derivatives(lambda *a: by_definition(*a, **options), *wide)
    for a, b in zip(mine, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=6e-6 * np.abs(b).max(), rtol=0)


def test_short_floats_lose_no_more_than_their_own_rounding():
    args = [jnp.asarray(a) for a in arguments(dtype=jnp.bfloat16)]
    f = jax.jit(lambda *a: derivatives(lambda *a: ops.normalized_separable_conv(*a, relu=True), *a)[:8])
    exact = f(*(a.astype(jnp.float32) for a in args))
    for a, b in zip(f(*args), exact, strict=True):
        assert np.abs(a.astype(jnp.float32) - b).mean() <= 0.04 * np.abs(b).mean()


def test_sharded_batch():
    """Sums alone are sent between the devices."""
    mesh = data_mesh(jax.devices()[:2])
    args = arguments(batch=8)

    def f(*args):
        return derivatives(lambda *a: ops.normalized_separable_conv(*a, relu=True), *args)[:8]

    split = jax.device_put(args[0], NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(f).lower(split, *args[1:]).compile()
    assert "all-gather" not in compiled.as_text()
    whole = derivatives(lambda *a: by_definition(*a, relu=True, dilation=1), *map(jnp.asarray, args))
    for a, b in zip(compiled(split, *args[1:]), whole, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=0)
