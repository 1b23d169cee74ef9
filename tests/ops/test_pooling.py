"""Max pooling, on CPUs and GPUs, against `lax.reduce_window`: the same values, the same gradients at ties and NaN."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax import ops

FEW = settings(max_examples=6, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["cpu", "gpu"], autouse=True)
def platform(request):
    with ops.for_platform(request.param):
        yield


def with_ties(*shape, seed=0):
    """Like an activation after ReLU: half zeros, the others small integers, so that nearly every window has a tie."""
    return np.maximum(np.random.default_rng(seed).integers(-3, 3, size=shape), 0).astype(np.float32)


def value_and_derivatives(x, *args):
    """The pooled values, a gradient, and the gradient's derivative along a direction."""
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(ops.max_pool(x, *args))))
    return jax.jit(lambda x: (ops.max_pool(x, *args), *jax.jvp(gradient, (x,), (jnp.cos(x),))))(x)


@FEW
@given(
    window=st.integers(2, 4),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID", ((1, 1), (1, 1)), ((0, 1), (1, 0))]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_max_pool(window, stride, padding, size, dtype):
    x = jnp.asarray(with_ties(2, *size, 3) - 1, dtype)
    args = (window, stride, padding)
    ours = value_and_derivatives(x, *args)
    np.testing.assert_array_equal(ours[0], _reference(x, *args)[0])
    # bfloat16: each of up to window**2 terms is rounded in the reference's sum.
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    for mine, exact in zip(ours[1:], _reference(x.astype(jnp.float32), *args)[1:], strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.astype(jnp.float32), exact, atol=tolerance, rtol=tolerance)


def _reference(x, *args):
    with ops.as_reference():
        assert "reduce_window" in str(jax.make_jaxpr(lambda x: ops.max_pool(x, *args))(x))
        return value_and_derivatives(x, *args)


def test_gradient_goes_to_the_first_maximum():
    x = jnp.asarray([[1.0, 2.0, 2.0], [2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]).reshape(1, 3, 3, 1)
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, 3, 1, "VALID")))(x)
    np.testing.assert_array_equal(gradient.reshape(3, 3), [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_window_of_more_than_128_pixels():
    """Too many for an int8 to number them, as the gradient does."""
    x = jnp.arange(13.0 * 13).reshape(1, 13, 13, 1)
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, 12, 1, "VALID")))(x)
    expected = np.zeros((13, 13))
    expected[11:, 11:] = 1
    np.testing.assert_array_equal(gradient.reshape(13, 13), expected)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3))])
@pytest.mark.parametrize(("window", "stride", "dilation"), [(3, 1, 2), (3, 2, 3), (2, 1, 4)])
def test_dilated_max_pool(window, stride, dilation, padding):
    x = jnp.asarray(with_ties(2, 11, 12, 3) - 1)
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    expected = lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        pads,
        window_dilation=(1, dilation, dilation, 1),
    )
    np.testing.assert_array_equal(ops.max_pool(x, window, stride, padding, dilation), expected)
    with ops.as_reference():
        np.testing.assert_array_equal(ops.max_pool(x, window, stride, padding, dilation), expected)


def test_is_not_reduce_window():
    """Its gradient, a scatter, is what this lowering avoids."""
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x, 3, 2, "SAME")))
    text = str(jax.make_jaxpr(gradient)(jnp.zeros((1, 8, 8, 2))))
    assert "select_and" not in text
    assert "reduce_window" not in text


@pytest.mark.parametrize("where", [(0, 0), (1, 1), (2, 2), (1, 2)])
def test_nan_is_seen(where):
    """A network that diverged must not look healthy after its pool."""
    x = with_ties(1, 3, 3, 1)
    x[0, *where, 0] = np.nan
    assert np.isnan(ops.max_pool(jnp.asarray(x), 3, 1, "VALID")).all()


def test_vmap():
    x = with_ties(3, 2, 7, 8, 4)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(ops.max_pool(x, 3, 2, "SAME")))))
    np.testing.assert_allclose(jax.vmap(gradient)(x), np.stack([gradient(jnp.asarray(one)) for one in x]), atol=1e-6)


def test_sharded_batch():
    """Eight devices do an eighth each and send nothing."""
    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x = with_ties(16, 7, 8, 4)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(ops.max_pool(x, 3, 2, "SAME")))))
    on_mesh = jax.device_put(x, split)
    compiled = gradient.lower(on_mesh).compile()
    assert "all-" not in compiled.as_text()
    np.testing.assert_allclose(compiled(on_mesh), gradient(jnp.asarray(x)), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pool_of_an_affine_function(dtype):
    """Bit for bit what is computed in the other order, also where it decreases or is constant."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 6)), dtype)
    scale, shift = jnp.asarray([1.3, -0.7, 0.0, 1e-3, -2.0, 0.6]), jnp.asarray(rng.normal(size=6), jnp.float32)
    args = (3, 2, "SAME")

    def expected(x, scale, shift):
        return ops.max_pool(ops.affine(x, scale, shift), *args)

    np.testing.assert_array_equal(ops.affine_max_pool(x, scale, shift, *args), expected(x, scale, shift))
    if dtype == jnp.float32:  # no ties by rounding, and none by a scale of 0
        scale = scale.at[2].set(0.5)
        loss = lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=(0, 1, 2))(x, scale, shift)  # noqa: E731
        ours = loss(lambda x, scale, shift: ops.affine_max_pool(x, scale, shift, *args))
        for a, b in zip(ours, loss(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("count_padding", "corner"), [(True, 4 / 9), (False, 1)])
def test_average_pool(count_padding, corner):
    y = ops.avg_pool(jnp.ones((1, 4, 4, 1)), 3, 1, "SAME", count_padding=count_padding)
    assert y[0, 0, 0, 0] == pytest.approx(corner)
    assert y[0, 1, 1, 0] == pytest.approx(1)
