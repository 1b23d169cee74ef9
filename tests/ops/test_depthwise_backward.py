"""The Pallas kernel for NVIDIA GPUs, interpreted, against convolutions and sums in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax.ops import depthwise_backward
from xception_jax.ops.depthwise_backward import Settings, in_one_kernel, plain_backward
from xception_jax.sharding import data_mesh

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


@pytest.mark.parametrize("axis", ["pictures", "channels"])
def test_sharded(axis):
    """Each device has its own part of the kernel; sums alone are sent, and none where channels are split."""
    settings = Settings(relu=True, dilation=1)
    args = arguments((4, 7, 6, 10))
    mesh = data_mesh(jax.devices()[:2])
    maps, vector = (PartitionSpec("data"), PartitionSpec())
    if axis == "channels":
        maps, vector = PartitionSpec(None, None, None, "data"), PartitionSpec("data")
    specs = (maps, vector, vector, PartitionSpec() if axis == "pictures" else maps, maps)
    args = [jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(args, specs, strict=True)]
    compiled = interpreted(settings).lower(*args).compile()
    assert "all-gather" not in compiled.as_text()
    assert ("all-reduce" in compiled.as_text()) == (axis == "pictures")
    for ours, expected in zip(compiled(*args), plain_backward(*args, settings), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_vmap():
    settings = Settings(relu=True, dilation=1)
    first, second = arguments((2, 5, 4, 3)), arguments((2, 5, 4, 3))
    x = np.stack([first[0], -second[0]])
    mapped = jax.vmap(lambda x: in_one_kernel(x, *first[1:], settings=settings, interpret=True))(x)
    for i in range(2):
        for ours, expected in zip(mapped, plain_backward(x[i], *first[1:], settings), strict=True):
            np.testing.assert_allclose(ours[i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "capability", "kernels"), [("cuda", "9.0", 1), ("cuda", "7.5", 0), ("rocm", "", 0)]
)
def test_where_it_is_used(monkeypatch, platform, capability, kernels):
    """By NVIDIA's GPUs that Triton knows, when they are what is compiled for."""
    monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"compute_capability": capability})])
    f = jax.jit(functools.partial(depthwise_backward.depthwise_backward, settings=Settings(True, 1)))
    text = f.trace(*arguments((2, 5, 4, 3))).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == kernels
