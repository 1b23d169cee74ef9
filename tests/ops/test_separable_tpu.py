"""The Pallas kernels for TPUs, interpreted, against `lax` in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax import ops
from xception_jax.ops import kernels, reference
from xception_jax.ops.reference import Parameters, Settings
from xception_jax.ops.tpu import separable as separable_tpu
from xception_jax.parallel.mesh import data_mesh

pytestmark = pytest.mark.usefixtures("interpreted")


def arguments(batch, height, width, channels, out, dtype=np.float32):
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    x, scale, shift = normal(batch, height, width, channels), normal(channels), normal(channels)
    depthwise, pointwise = normal(3, 3, 1, channels), normal(1, 1, channels, out) / np.sqrt(channels)
    return x.astype(dtype), Parameters(scale, shift, depthwise.astype(dtype), pointwise.astype(dtype))


def derivatives(convolve, x, weights, settings):
    """The results, the gradients of a loss of them, and the second derivatives along a direction."""

    def loss(x, weights):
        y, sums = convolve(x, weights, settings)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(sums / x.size))

    gradients = jax.grad(loss, argnums=(0, 1))
    tangents = jax.tree.map(jnp.cos, (x, weights))
    return convolve(x, weights, settings), *jax.jvp(gradients, (x, weights), tangents)


@pytest.mark.parametrize(
    ("shape", "relu"),
    [
        pytest.param((8, 5, 4, 130, 140), True, marks=pytest.mark.slow),  # two registers of channels
        pytest.param((3 * 8, 1, 1, 128, 128), True, marks=pytest.mark.slow),  # three blocks of images of one pixel
        ((2 * 8, 2, 3, 128, 256), False),  # two groups of pictures
    ],
)
def test_derivatives(shape, relu):
    x, weights = arguments(*shape)
    settings = Settings(relu, 1)
    mine = jax.jit(functools.partial(derivatives, separable_tpu.convolve, settings=settings))(x, weights)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (x, weights))
        exact = jax.jit(functools.partial(derivatives, reference.convolve, settings=settings))(*wide)
    for ours, expected in zip(jax.tree.leaves(mine), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, atol=6e-6 * np.abs(expected).max(), rtol=0)


def test_on_a_simulated_tpu():
    """With rows that arrive while others are worked on, and NaN where nothing was written."""
    x, weights = arguments(16, 2, 2, 130, 128)
    settings, simulated = Settings(True, 1), pltpu.InterpretParams(uninitialized_memory="nan")
    y, sums = reference.convolve(x, weights, settings)
    args = x, weights, y, np.cos(y), np.cos(sums)
    ours = (
        jax.jit(functools.partial(separable_tpu.forward_kernel, settings=settings, interpret=simulated))(x, weights),
        jax.jit(functools.partial(separable_tpu.backward_kernel, settings=settings, interpret=simulated))(*args),
    )
    theirs = (y, sums), separable_tpu.plain_backward(*args, settings)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=0)


def test_short_floats():
    """Sums are float32; what is rounded is what `lax` would round."""
    x, weights = jax.tree.map(jnp.asarray, arguments(8, 7, 6, 128, 128, jnp.bfloat16))
    settings = Settings(True, 1)

    def gradients(convolve):
        (y, sums), back = jax.vjp(functools.partial(convolve, settings=settings), x, weights)
        return (y, sums), back((jnp.cos(y), jnp.ones_like(sums)))

    ours, theirs = (jax.jit(gradients, static_argnums=0)(m.convolve) for m in (separable_tpu, reference))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = (v.astype(jnp.float32) for v in (a, b))
        assert np.abs(a - b).mean() <= 0.01 * np.abs(b).mean()


def test_sharded():
    """Each device has its own pictures' part of the kernels; sums alone are sent."""
    x, weights = arguments(16, 3, 2, 128, 128)
    mesh = data_mesh(jax.devices()[:2])
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))

    def gradients(convolve, x, weights):
        y, back = jax.vjp(functools.partial(convolve, settings=Settings(True, 1)), x, weights)
        return y, back(y)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(functools.partial(gradients, separable_tpu.convolve)).lower(split, weights).compile()
    assert "all-gather" not in compiled.as_text()
    assert "all-reduce" in compiled.as_text()
    exact = gradients(reference.convolve, x, weights)
    for ours, expected in zip(jax.tree.leaves(compiled(split, weights)), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


BF16 = jnp.bfloat16


@pytest.mark.parametrize(
    ("batch", "channels", "out", "dilation", "dtype", "kind", "taken"),
    [
        (8, 128, 728, 1, BF16, "TPU v5 lite", True),
        (8, 728, 728, 1, BF16, "TPU7x", True),
        (8, 64, 128, 1, BF16, "TPU v5 lite", False),  # another layout
        (8, 128, 96, 1, BF16, "TPU v5 lite", False),
        (8, 128, 128, 2, BF16, "TPU v5 lite", False),
        (8, 128, 128, 1, jnp.float32, "TPU v5 lite", False),
        (8, 128, 128, 1, BF16, "TPU v4", False),  # 16 MiB of on-chip memory
        (8, 128, 128, 1, BF16, "cpu", False),
        (7, 128, 128, 1, BF16, "TPU v5 lite", False),  # no whole tiles
        (8, 4096, 4096, 1, BF16, "TPU v5 lite", False),  # too large for on-chip memory
    ],
)
def test_what_the_kernels_take(monkeypatch, batch, channels, out, dilation, dtype, kind, taken):
    monkeypatch.undo()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(kernels, "device_kind", lambda: kind)
    x = jax.ShapeDtypeStruct((batch, 19, 19, channels), dtype)
    pointwise = jax.ShapeDtypeStruct((1, 1, channels, out), dtype)
    assert separable_tpu.takes(x, pointwise, Settings(True, dilation)) == taken


def test_not_where_it_is_unknown_how_the_batch_is_split(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    shapes = jax.ShapeDtypeStruct((16, 19, 19, 128), BF16), jax.ShapeDtypeStruct((1, 1, 128, 128), BF16)
    assert not separable_tpu.takes(*shapes, Settings(True, 1))


@pytest.mark.parametrize(("dtype", "calls"), [(BF16, 2), (np.float32, 0)])
def test_where_they_are_used(monkeypatch, dtype, calls):
    """One a direction, in what is lowered for TPUs."""
    monkeypatch.undo()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(kernels, "device_kind", lambda: "TPU v6 lite")
    x, weights = arguments(8, 5, 4, 130, 140, dtype)

    def loss(x, weights):
        y, mean, _ = ops.normalized_separable_conv(x, *weights, relu=True)
        return y.astype(jnp.float32).sum() + mean.sum()

    with ops.for_platform("tpu"):
        lowered = jax.jit(jax.grad(loss)).trace(x, weights).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("@tpu_custom_call") == calls
