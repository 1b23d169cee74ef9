"""The Pallas kernel for NVIDIA GPUs, interpreted, against convolutions and sums in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from xception_jax.ops.gpu import depthwise_backward
from xception_jax.ops.gpu.depthwise_backward import in_one_kernel, plain_backward
from xception_jax.ops.reference import Settings
from xception_jax.parallel.mesh import data_mesh


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


NAMES = ("x", "scale", "shift", "kernel", "cotangent")


def arguments(shape, dtype=np.float32):
    rng = np.random.default_rng(0)
    vector, kernel = shape[-1:], (3, 3, 1, shape[-1])
    x, scale, shift, kernel, cotangent = (rng.normal(size=s) for s in (shape, vector, vector, kernel, shape))
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    return x.astype(dtype), scale, shift, kernel.astype(dtype), cotangent.astype(dtype)


def interpreted(settings):
    return jax.jit(functools.partial(in_one_kernel, settings=settings, interpret=True))


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 5, 4, 3), Settings(relu=True, dilation=1)),
        ((1, 3, 17, 64), Settings(relu=False, dilation=2)),
        ((1, 37, 35, 130), Settings(relu=True, dilation=4)),  # two parts, three blocks of channels
        ((1, 1, 1, 65), Settings(relu=True, dilation=1)),
    ],
)
def test_gradients(shape, settings):
    args = arguments(shape)
    with jax.enable_x64(True):
        exact = plain_backward(*(jnp.asarray(a, jnp.float64) for a in args), settings)
    for name, ours, expected in zip(NAMES, interpreted(settings)(*args), exact, strict=False):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, atol=3e-6 * np.abs(expected).max(), rtol=0, err_msg=name)


def test_short_floats():
    """Sums are float32: what is rounded is what is read, what the ReLU takes, and the results."""
    args = [jnp.asarray(a) for a in arguments((2, 9, 8, 16), jnp.bfloat16)]
    settings = Settings(relu=True, dilation=1)
    exact = plain_backward(*(a.astype(jnp.float32) for a in args), settings)
    for ours, expected, dtype in zip(
        interpreted(settings)(*args), exact, ("bfloat16", "float32", "float32", "bfloat16"), strict=True
    ):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, atol=0.01 * np.abs(expected).max(), rtol=0)


def test_sharded():
    """Each device has its own pictures' part of the kernel; sums alone are sent."""
    settings = Settings(relu=True, dilation=1)
    args = arguments((4, 7, 6, 10))
    mesh = data_mesh(jax.devices()[:2])
    pictures = NamedSharding(mesh, PartitionSpec("data"))
    split = [jax.device_put(a, pictures) if a.shape == (4, 7, 6, 10) else a for a in args]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = interpreted(settings).lower(*split).compile()
    assert "all-gather" not in compiled.as_text()
    assert "all-reduce" in compiled.as_text()
    for ours, expected in zip(compiled(*split), plain_backward(*args, settings), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.fixture
def kernels_in(monkeypatch):
    """Counts the kernels in a program for devices that are not here: (platform, capability, devices) -> number."""

    def count(platform: str, capability: str, devices: int) -> int:
        monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"compute_capability": capability})])
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        f = jax.jit(functools.partial(depthwise_backward.depthwise_backward, settings=Settings(True, 1)))
        gpu = AbstractDevice("NVIDIA H100", num_cores=None, platform="gpu")  # Triton asks which, from JAX 0.12
        with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=gpu)):
            text = f.trace(*arguments((2, 5, 4, 3))).lower(lowering_platforms=(platform,)).as_text()
        return text.count("@__gpu$xla.gpu.triton")

    return count


@pytest.mark.parametrize(
    ("platform", "capability", "devices", "used"),
    [("cuda", "9.0", 1, 1), ("cuda", "9.0", 2, 0), ("cuda", "7.5", 1, 0), ("rocm", "", 1, 0)],
)
def test_where_it_is_used(kernels_in, platform, capability, devices, used):
    """By NVIDIA's GPUs that Triton knows, where it is known how the batch is split."""
    assert kernels_in(platform, capability, devices) == used


def test_jax_without_triton_has_the_plain_form(kernels_in, monkeypatch):
    monkeypatch.setattr(depthwise_backward, "triton", None)
    assert kernels_in("cuda", "9.0", 1) == 0
