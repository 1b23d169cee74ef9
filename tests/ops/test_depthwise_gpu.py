"""The Pallas kernels for NVIDIA GPUs, interpreted, against convolutions and sums in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from xception_jax import ops
from xception_jax.ops.gpu import depthwise_backward, depthwise_forward, strips
from xception_jax.ops.gpu.strips import Blocks
from xception_jax.ops.reference import Settings, affine_relu, depthwise_conv
from xception_jax.parallel.mesh import data_mesh


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def plain_forward(x, scale, shift, kernel, settings):
    return depthwise_conv(affine_relu(x, scale, shift, settings), kernel, settings)


# Each kernel, what it computes, and how many of the arguments it takes.
KERNELS = {
    "forward": (depthwise_forward.in_one_kernel, plain_forward, 4),
    "backward": (depthwise_backward.in_one_kernel, depthwise_backward.plain_backward, 5),
}
both = pytest.mark.parametrize("name", KERNELS)


def arguments(shape, count=5, dtype=np.float32):
    rng = np.random.default_rng(0)
    vector, kernel = shape[-1:], (3, 3, 1, shape[-1])
    x, scale, shift, kernel, cotangent = (rng.normal(size=s) for s in (shape, vector, vector, kernel, shape))
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    return [x.astype(dtype), scale, shift, kernel.astype(dtype), cotangent.astype(dtype)][:count]


def interpreted(name, settings, blocks=None):
    return jax.jit(functools.partial(KERNELS[name][0], settings=settings, blocks=blocks, interpret=True))


@both
@pytest.mark.parametrize(
    ("shape", "settings", "blocks"),
    [
        ((2, 5, 4, 3), Settings(relu=True, dilation=1), None),
        ((1, 3, 17, 64), Settings(relu=False, dilation=2), None),
        ((1, 37, 11, 130), Settings(relu=True, dilation=4), None),  # three blocks of channels, the last of two
        ((1, 1, 1, 65), Settings(relu=True, dilation=1), None),
        (
            (1, 33, 5, 8),
            Settings(relu=True, dilation=2),
            Blocks(2, 8, 4, 1, 2),
        ),  # strips below each other, two rows ahead
    ],
)
def test_equals_float64(name, shape, settings, blocks):
    _, plain, count = KERNELS[name]
    args = arguments(shape, count)
    with jax.enable_x64(True):
        exact = jax.tree.leaves(plain(*(jnp.asarray(a, jnp.float64) for a in args), settings))
    for ours, expected in zip(jax.tree.leaves(interpreted(name, settings, blocks)(*args)), exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, atol=3e-6 * np.abs(expected).max(), rtol=0)


@both
def test_short_floats(name):
    """Sums are float32: what is rounded is what is read, and the results."""
    _, plain, count = KERNELS[name]
    args = [jnp.asarray(a) for a in arguments((2, 9, 8, 16), count, jnp.bfloat16)]
    settings = Settings(relu=True, dilation=1)
    exact = jax.tree.leaves(plain(*(a.astype(jnp.float32) for a in args), settings))
    dtypes = {"forward": ["bfloat16"], "backward": ["bfloat16", "float32", "float32", "bfloat16"]}[name]
    for ours, expected, dtype in zip(jax.tree.leaves(interpreted(name, settings)(*args)), exact, dtypes, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, atol=0.01 * np.abs(expected).max(), rtol=0)


@both
def test_sharded(name):
    """Each device has its own images; of the kernel's gradient, sums alone are sent."""
    _, plain, count = KERNELS[name]
    settings = Settings(relu=True, dilation=1)
    args = arguments((4, 7, 6, 10), count)
    mesh = data_mesh(jax.devices()[:2])
    images = NamedSharding(mesh, PartitionSpec("data"))
    split = [jax.device_put(a, images) if a.shape == (4, 7, 6, 10) else a for a in args]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = interpreted(name, settings).lower(*split).compile()
    assert "all-gather" not in compiled.as_text()
    assert ("all-reduce" in compiled.as_text()) == (name == "backward")
    expected = jax.tree.leaves(plain(*args, settings))
    for ours, theirs in zip(jax.tree.leaves(compiled(*split)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize(("shape", "dilation"), [((1, 147, 147, 128), 1), ((2, 19, 19, 728), 1), ((1, 23, 9, 3), 4)])
def test_strips_cover_a_map_once(shape, dilation):
    """However a map is cut, each of its rows and columns is some program's own, and no two programs'."""
    grid = strips.cut(shape, dilation)
    rows = [
        start + i * dilation
        for part in range(grid.down)
        for start in range(dilation)
        for i in range(part * grid.rows, (part + 1) * grid.rows)
    ]
    assert sorted(row for row in rows if row < shape[1]) == list(range(shape[1]))
    assert grid.programs[1] == grid.across * grid.down * dilation
    assert (grid.across - 1) * grid.blocks.columns < shape[2] <= grid.across * grid.blocks.columns


def test_few_images_are_cut_into_more_strips():
    few, many = (strips.cut((batch, 147, 147, 128), 1).rows for batch in (1, 128))
    assert few < many == 147


def total(*args):
    """Normalization, ReLU and a separable convolution, as networks trace them for GPUs."""
    with ops.for_platform("gpu"):
        return ops.normalized_separable_conv(*args, relu=True)[0].sum()


@pytest.fixture
def kernels_in(monkeypatch):
    """Counts the kernels in a gradient for devices that are not here: (platform, capability, devices) -> number."""

    def count(platform: str, capability: str, devices: int) -> int:
        monkeypatch.setattr(jax, "devices", lambda: [type("Device", (), {"compute_capability": capability})])
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        gpu = AbstractDevice("NVIDIA H100", num_cores=None, platform="gpu")  # Triton asks which, from JAX 0.12
        with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=gpu)):
            *args, _ = arguments((2, 5, 4, 3))
            trace = jax.jit(jax.grad(total)).trace(*args, np.ones((1, 1, 3, 2), np.float32))
            text = trace.lower(lowering_platforms=(platform,)).as_text()
        return text.count("@__gpu$xla.gpu.triton")

    return count


@pytest.mark.parametrize(
    ("platform", "capability", "devices", "used"),
    [("cuda", "9.0", 1, 2), ("cuda", "9.0", 2, 0), ("cuda", "7.5", 1, 0), ("rocm", "", 1, 0)],
)
def test_where_it_is_used(kernels_in, platform, capability, devices, used):
    """By NVIDIA's GPUs that Triton knows, where it is known how the batch is split."""
    assert kernels_in(platform, capability, devices) == used


def test_jax_without_triton_has_the_plain_form(kernels_in, monkeypatch):
    monkeypatch.setattr(strips, "triton", None)
    assert kernels_in("cuda", "9.0", 1) == 0
