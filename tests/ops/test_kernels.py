"""What is around Pallas kernels, with functions that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from xception_jax.ops import kernels


def kernel(x, scale):
    """Knows neither derivatives nor `vmap`."""
    return jax.pure_callback(lambda x, s: np.asarray(x) ** 3 * s, jax.ShapeDtypeStruct(x.shape, x.dtype), x, scale)


def plain(x, scale):
    return x**3 * scale


def test_derivatives_and_vmap_are_those_of_the_plain_form():
    operator = jax.jit(kernels.as_operator(kernel, plain))
    x, scale = jnp.arange(1.0, 4.0), jnp.float32(2)
    np.testing.assert_allclose(operator(x, scale), 2 * x**3, rtol=1e-6)
    first = jax.grad(lambda x: operator(x, scale).sum())
    np.testing.assert_allclose(first(x), 6 * x**2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: first(x).sum())(x), 12 * x, rtol=1e-6)
    batch = jnp.stack([x, -x])
    np.testing.assert_allclose(jax.vmap(operator, (0, None))(batch, scale), 2 * batch**3, rtol=1e-6)


def mesh(*kinds):
    devices = np.asarray(jax.devices()[: 2 ** len(kinds)]).reshape((2,) * len(kinds))
    return Mesh(devices, ("data", "model")[: len(kinds)], axis_types=kinds)


@pytest.mark.parametrize(
    ("kinds", "axes"),
    [((AxisType.Auto,) * 2, ("data", "model")), ((AxisType.Explicit,), None), ((AxisType.Auto, AxisType.Manual), None)],
)
def test_axes_of_a_batch_are_the_mesh_s(kinds, axes):
    with jax.sharding.use_abstract_mesh(mesh(*kinds).abstract_mesh):
        assert kernels.batch_axes() == axes


@pytest.mark.parametrize(("count", "axes"), [(1, ()), (2, None)])
def test_axes_without_a_mesh(monkeypatch, count, axes):
    """One device has all of it; how several split it is not known."""
    monkeypatch.setattr(jax, "device_count", lambda: count)
    assert kernels.batch_axes() == axes


@pytest.mark.parametrize(("batch", "pictures"), [(24, 6), (26, 0), (2, 0)])
def test_images_per_device(batch, pictures):
    """None where the batch does not divide."""
    with jax.sharding.use_abstract_mesh(mesh(AxisType.Auto, AxisType.Auto).abstract_mesh):
        assert kernels.images_per_device(batch) == pictures


def test_images_per_device_without_a_mesh():
    assert kernels.images_per_device(24) == 0


def test_programs_that_say_what_each_device_does_keep_the_plain_form():
    """Within a `shard_map` of theirs, kernels would have to tell over which axes their results differ."""
    operator = kernels.as_operator(lambda x: 1 / 0, jnp.sin)

    def part(x):
        return operator(x) if kernels.batch_axes() is not None else jnp.sin(x)

    batch = PartitionSpec("data")
    y = jax.shard_map(part, mesh=mesh(AxisType.Auto), in_specs=batch, out_specs=batch)(jnp.ones(6))
    np.testing.assert_allclose(y, np.sin(np.ones(6)), rtol=1e-6)
