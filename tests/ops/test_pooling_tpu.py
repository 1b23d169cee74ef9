"""The Pallas kernels of max pooling for TPUs, interpreted, against `lax` in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax import ops
from xception_jax.ops import kernels
from xception_jax.ops.tpu import pooling as pooling_tpu
from xception_jax.ops.tpu.pooling import Border
from xception_jax.parallel.mesh import data_mesh


def arguments(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, shape).astype(dtype)  # with equal maxima, and none in whole windows but negative ones
    return x, np.where(rng.random(shape[-1]) < 0.5, -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "border"),
    [
        pytest.param((8, 7, 7, 128), Border((1, 1), (1, 1)), marks=pytest.mark.slow),  # SAME, odd
        ((16, 8, 6, 130), Border((0, 1), (0, 1))),  # SAME, even; two blocks of pictures and two of channels
        pytest.param((8, 8, 5, 128), Border((1, 1), (1, 1)), marks=pytest.mark.slow),  # symmetric, even and odd
        pytest.param((8, 8, 9, 128), Border((0, 0), (0, 0)), marks=pytest.mark.slow),  # VALID
        ((8, 1, 2, 128), Border((1, 1), (1, 1))),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_derivatives(shape, border):
    x, sign = arguments(shape)
    x[..., :2] = -np.abs(x[..., :2]) - 1

    def derivatives(pool, x, sign):
        def loss(x):
            return jnp.sum(jnp.sin(pool(x, sign, border)))

        return pool(x, sign, border), *jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),))

    mine = jax.jit(functools.partial(derivatives, pooling_tpu.signed_max_pool))(x, sign)
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64), jnp.asarray(sign, jnp.float64)
        exact = jax.jit(functools.partial(derivatives, pooling_tpu.plain))(*wide)
    for ours, expected in zip(mine, exact, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.usefixtures("interpreted")
def test_on_a_simulated_tpu():
    """With rows that arrive while others are worked on, and NaN where nothing was written."""
    (x, sign), border = arguments((8, 3, 3, 130)), Border((1, 1), (1, 1))
    simulated = pltpu.InterpretParams(uninitialized_memory="nan")
    forward, backward = (
        jax.jit(functools.partial(f, border=border, interpret=simulated))
        for f in (pooling_tpu.forward_kernel, pooling_tpu.backward_kernel)
    )
    y = pooling_tpu.plain(x, sign, border)
    np.testing.assert_array_equal(forward(x, sign), y)
    np.testing.assert_allclose(backward(x, sign, y), pooling_tpu.plain_backward(x, sign, y, border), atol=1e-5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("padding", ["SAME", ((1, 1), (1, 1))])
def test_pool_of_an_affine_function(padding):
    """The same as by `lax`, with the gradients of scale and shift, in bfloat16."""
    x = jax.random.normal(jax.random.key(0), (8, 6, 7, 128)).astype(jnp.bfloat16)
    scale, shift = jax.random.normal(jax.random.key(1), (2, 128))

    def results(platform):
        def loss(*args):
            y = ops.affine_max_pool(*args, 3, 2, padding)
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        with ops.for_platform(platform):
            return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, scale, shift)

    for ours, expected in zip(jax.tree.leaves(results("tpu")), jax.tree.leaves(results("gpu")), strict=True):
        assert ours.dtype == expected.dtype
        ours, expected = (np.asarray(v, np.float32) for v in (ours, expected))
        np.testing.assert_allclose(ours, expected, atol=0.01 * np.abs(expected).max(), rtol=0)


@pytest.mark.usefixtures("interpreted")
def test_sharded():
    """Each device pools its own pictures, and nothing is sent."""
    (x, sign), border = arguments((16, 5, 4, 128)), Border((1, 1), (0, 1))
    mesh = data_mesh(jax.devices()[:2])
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))

    def gradient(pool, x):
        y, back = jax.vjp(lambda x: pool(x, sign, border), x)
        return y, *back(y)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(functools.partial(gradient, pooling_tpu.signed_max_pool)).lower(split).compile()
    assert not re.findall("all-(gather|reduce|to-all)", compiled.as_text())
    for ours, expected in zip(compiled(split), gradient(pooling_tpu.plain, x), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_where_they_are_used(monkeypatch, padding):
    """One a direction, in what is lowered for TPUs."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(kernels, "device_kind", lambda: "TPU7x")
    x, vector = np.zeros((8, 7, 6, 130), jnp.bfloat16), np.ones(130, np.float32)
    with ops.for_platform("tpu"):
        pool = lambda x: ops.affine_max_pool(x, vector, vector, 3, 2, padding).astype(jnp.float32)  # noqa: E731
        f = jax.jit(jax.value_and_grad(lambda x: pool(x).sum()))
        lowered = f.trace(x).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("@tpu_custom_call") == 2


@pytest.mark.parametrize(
    ("shape", "window", "stride", "border", "dilation", "taken"),
    [
        ((8, 19, 19, 728), 3, 2, ((1, 1), (1, 1)), 1, True),
        ((8, 19, 19, 64), 3, 2, ((1, 1), (1, 1)), 1, False),  # another layout
        ((8, 19, 19, 728), 3, 1, ((1, 1), (1, 1)), 1, False),
        ((8, 19, 19, 728), 3, 2, ((2, 2), (2, 2)), 2, False),
        ((8, 19, 19, 728), 2, 2, ((0, 0), (0, 0)), 1, False),
        ((8, 19, 19, 728), 3, 2, ((2, 0), (2, 0)), 1, False),
        ((7, 19, 19, 728), 3, 2, ((1, 1), (1, 1)), 1, False),  # no whole tiles
        ((8, 19, 19, 728), 3, 2, ((0, 3), (0, 1)), 1, False),  # windows of nothing but padding
        ((8, 19, 19, 728), 3, 2, ((-1, 0), (0, 1)), 1, False),
        ((8, 1, 19, 728), 3, 2, ((0, 0), (0, 0)), 1, False),  # no window
        ((8, 4000, 4000, 728), 3, 2, ((1, 1), (1, 1)), 1, False),  # too large for on-chip memory
    ],
)
def test_what_the_kernels_take(monkeypatch, shape, window, stride, border, dilation, taken):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(kernels, "device_kind", lambda: "TPU v5 lite")
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    assert pooling_tpu.takes(x, window, stride, Border(*border), dilation) == taken
