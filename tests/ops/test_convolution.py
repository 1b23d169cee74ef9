"""Convolutions on the CPU against `lax` in float64, for values, gradients and second derivatives."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xception_jax import ops
from xception_jax.errors import UserError
from xception_jax.ops import lowering
from xception_jax.ops.convolution import MAX_TAPS

NHWC = ("NHWC", "HWIO", "NHWC")
FEW = settings(max_examples=6, deadline=None, derandomize=True)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
margins = st.tuples(st.integers(-1, 3), st.integers(0, 3))
paddings = st.sampled_from(["SAME", "VALID", "SAME_LOWER"]) | st.tuples(margins, margins)


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def convolution(conv, strides, padding, **options):
    return lambda x, kernel: conv(x, kernel, strides, padding, dimension_numbers=NHWC, **options)


def derivatives(f, x, kernel):
    """The value, both gradients of a loss that is not linear, and its second derivative along a direction."""
    gradients = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), argnums=(0, 1))

    @jax.jit
    def everything(x, kernel):
        first, second = jax.jvp(gradients, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))
        return f(x, kernel), *first, *second

    return everything(x, kernel)


def check_derivatives(x, kernel, *args, **options):
    """`ops` in float32 against `lax` in float64."""
    ours = derivatives(convolution(ops.conv_general_dilated, *args, **options), x, kernel)
    with jax.enable_x64(True):
        wide = x.astype(np.float64), kernel.astype(np.float64)
        theirs = derivatives(convolution(lax.conv_general_dilated, *args, **options), *wide)
    for mine, exact in zip(map(np.asarray, ours), map(np.asarray, theirs), strict=True):
        assert (mine.dtype, exact.dtype) == (jnp.float32, jnp.float64)
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(mine / scale, exact / scale, atol=3e-6, rtol=0)


def primitives(*args, x=(2, 8, 8, 6), kernel=(3, 3, 1, 6), dtypes=(jnp.float32, jnp.float32), **options):
    """The names of what `ops.conv_general_dilated` traces to."""
    given = [jax.ShapeDtypeStruct(s, t) for s, t in zip((x, kernel), dtypes, strict=True)]
    traced = jax.make_jaxpr(convolution(ops.conv_general_dilated, *args, **options))(*given)
    return set(re.findall(r"\b(conv_general_dilated|dot_general|custom_vjp_call|mul)\b", str(traced)))


@FEW
@given(
    kernel_size=pairs,
    strides=pairs,
    dilation=pairs,
    padding=paddings,
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
)
def test_depthwise(kernel_size, strides, dilation, padding, size):
    x, kernel = normal(2, *size, 5), normal(*kernel_size, 1, 5, seed=1)
    check_derivatives(x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=5)


@FEW
@given(strides=pairs, padding=paddings, size=pairs, channels=pairs)
def test_pointwise(strides, padding, size, channels):
    x, kernel = normal(2, size[0] + 4, size[1] + 4, channels[0]), normal(1, 1, *channels, seed=1)
    check_derivatives(x, kernel, strides, padding)


@FEW
@given(
    groups=st.integers(2, 4),
    per_group=st.tuples(st.integers(2, 3), st.integers(1, 3)),
    strides=pairs,
    dilation=pairs,
    padding=paddings,
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
)
def test_grouped(groups, per_group, strides, dilation, padding, size):
    channels, out = (groups * n for n in per_group)
    x, kernel = normal(2, *size, channels), normal(3, 2, per_group[0], out, seed=1)
    check_derivatives(x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups)


@FEW
@given(
    kernel_size=pairs,
    strides=pairs,
    padding=st.sampled_from(["SAME", "VALID"]) | st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    channels=pairs,
)
def test_dense(kernel_size, strides, padding, size, channels):
    x, kernel = normal(2, *size, channels[0]), normal(*kernel_size, *channels, seed=1)
    check_derivatives(x, kernel, strides, padding)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(
    ("kernel", "groups"), [((3, 3, 1, 8), 8), ((1, 1, 8, 8), 1), ((3, 3, 8, 8), 1), ((3, 3, 4, 8), 2)]
)
def test_sums_of_short_floats_are_float32(dtype, kernel, groups):
    """No error but the result's own rounding, though the kernel's gradient sums 2,400 products."""
    f = convolution(ops.conv_general_dilated, (1, 1), "SAME", feature_group_count=groups)
    x, kernel = jnp.asarray(normal(6, 20, 20, 8), dtype), jnp.asarray(normal(*kernel, seed=1), dtype)
    cotangent = jnp.asarray(normal(6, 20, 20, 8, seed=2), dtype)

    @jax.jit
    def value_and_gradients(x, kernel, cotangent):
        y, pull = jax.vjp(f, x, kernel)
        return y, *pull(cotangent)

    wide = [a.astype(jnp.float32) for a in (x, kernel, cotangent)]
    for ours, exact in zip(value_and_gradients(x, kernel, cotangent), value_and_gradients(*wide), strict=True):
        assert ours.dtype == dtype
        scale = np.abs(exact).max()
        assert np.max(np.abs(ours.astype(jnp.float32) - exact) / scale) <= jnp.finfo(dtype).eps


@pytest.mark.parametrize(
    ("kernel", "groups"), [((3, 3, 1, 6), 6), ((1, 1, 6, 4), 1), ((3, 3, 6, 4), 1), ((3, 3, 2, 6), 3)]
)
def test_vmap(kernel, groups):
    """Over pictures and kernels, of the gradients: what an ensemble needs."""
    f = convolution(ops.conv_general_dilated, (2, 2), "SAME", feature_group_count=groups)
    gradients = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), argnums=(0, 1)))
    x, kernels = normal(3, 2, 7, 8, 6), normal(3, *kernel, seed=1)
    for i, (dx, dk) in enumerate(zip(*jax.vmap(gradients)(x, kernels), strict=True)):
        single = gradients(x[i], kernels[i])
        np.testing.assert_allclose(dx, single[0], atol=3e-5)
        np.testing.assert_allclose(dk, single[1], atol=3e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("kernel", "groups"), [((3, 3, 1, 6), 6), ((1, 1, 6, 4), 1), ((3, 3, 6, 4), 1), ((3, 3, 2, 6), 3)]
)
def test_sharded_batch(axis_type, kernel, groups):
    """Eight devices do an eighth each: nothing but the kernel's gradient is sent, and that once."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    f = convolution(ops.conv_general_dilated, (1, 1), "SAME", feature_group_count=groups)
    gradients = jax.jit(
        jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), argnums=(0, 1)), out_shardings=(split, whole)
    )
    x, kernel = normal(16, 7, 8, 6), normal(*kernel, seed=1)
    on_mesh = jax.device_put(x, split), jax.device_put(kernel, whole)
    compiled = gradients.lower(*on_mesh).compile()
    loops, entry = compiled.as_text().split("\nENTRY")
    message = re.compile(r" (all-[\w-]+|collective-[\w-]+)\(")
    assert not message.search(loops)
    assert message.findall(entry) == ["all-reduce"]
    for ours, exact in zip(compiled(*on_mesh), gradients(x, kernel), strict=True):
        np.testing.assert_allclose(ours, exact, atol=3e-5)


def test_dispatch():
    same = (1, 1), "SAME"
    assert primitives(*same, feature_group_count=6) == {"custom_vjp_call", "mul"}
    assert primitives(*same, kernel=(1, 1, 6, 4)) == {"dot_general"}
    assert primitives(*same, kernel=(3, 3, 2, 6), feature_group_count=3) == {"dot_general"}
    assert primitives(*same, kernel=(3, 3, 6, 4)) == {"custom_vjp_call", "conv_general_dilated"}
    with ops.as_reference():
        assert primitives(*same, feature_group_count=6) == {"conv_general_dilated"}
        assert primitives(*same, kernel=(1, 1, 6, 4)) == {"conv_general_dilated"}
    assert "mul" in primitives(*same, feature_group_count=6)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3, 6, 4), {"rhs_dilation": (2, 2)}),
        ((3, 3, 2, 6), {"feature_group_count": 3, "precision": "highest"}),
        ((3, 3, 1, 12), {"feature_group_count": 6}),
        ((5, MAX_TAPS // 5 + 1, 1, 6), {"feature_group_count": 6, "padding": "SAME"}),
        ((1, 1, 6, 4), {"padding": ((-1, 1), (0, 0))}),
        ((1, 1, 6, 4), {"lhs_dilation": (2, 2)}),
        ((1, 1, 6, 4), {"batch_group_count": 2}),
        ((1, 1, 6, 4), {"dtypes": (jnp.bfloat16, jnp.bfloat16), "preferred_element_type": jnp.float32}),
        ((1, 1, 6, 4), {"dtypes": (jnp.int32, jnp.int32)}),
        ((9, 9, 1, 6), {"feature_group_count": 6}),
    ],
)
def test_everything_else_is_lax(kernel, options):
    options = {"padding": ((0, 0), (0, 0)), **options}
    assert primitives((1, 1), kernel=kernel, **options) == {"conv_general_dilated"}


def test_other_layouts_are_lax():
    """[batch, channels, height, width], whose shape could be taken for ours."""
    f = lambda x, kernel: ops.conv_general_dilated(x, kernel, (1, 1), "SAME")  # noqa: E731
    x, kernel = normal(2, 8, 8, 8), normal(8, 8, 1, 1, seed=1)
    np.testing.assert_array_equal(f(x, kernel), lax.conv_general_dilated(x, kernel, (1, 1), "SAME"))


def test_setting():
    """It outlives nothing: not its context, not an error in it."""
    with pytest.raises(ZeroDivisionError), ops.as_reference():
        raise ZeroDivisionError
    assert "mul" in primitives((1, 1), "SAME", feature_group_count=6)
    with pytest.raises(UserError, match='unknown lowering "refrence"; did you mean "reference"'):
        ops.Lowering("refrence")


def test_setting_is_of_one_thread():
    """Two experiments in two threads do not decide for each other."""
    with ops.as_reference(), ThreadPoolExecutor(1) as other:
        assert "mul" in other.submit(primitives, (1, 1), "SAME", feature_group_count=6).result()
        assert primitives((1, 1), "SAME", feature_group_count=6) == {"conv_general_dilated"}


@pytest.fixture
def measured(monkeypatch):
    """Makes up a table: each network's {operator: (fast, reference)}."""

    def table(*networks):
        lowering.is_faster.cache_clear()
        times = [{o: {"fast": fast, "reference": plain} for o, (fast, plain) in n.items()} for n in networks]
        made = {"cpu": {str(i): {"milliseconds": t} for i, t in enumerate(times)}}
        monkeypatch.setattr(lowering, "table", lambda: made)

    yield table
    lowering.is_faster.cache_clear()


@pytest.mark.parametrize(
    ("operator", "kernel", "groups"),
    [("depthwise", 3, 6), ("pointwise", 1, 1), ("convolution", 3, 1), ("convolution", 3, 3)],
)
def test_the_table_decides(measured, operator, kernel, groups):
    """An operator that was slower takes the reference, unless it is told otherwise; one not measured does not."""

    def plain():
        shape = (kernel, kernel, 6 // groups, 6)
        return primitives((1, 1), "SAME", kernel=shape, feature_group_count=groups) == {"conv_general_dilated"}

    measured({operator: (5, 4)})
    assert plain()
    with ops.use(ops.Lowering("fast")):
        assert not plain()
    measured({operator: (5, 4)}, {operator: (1, 3)})  # 6 against 7
    assert not plain()
    measured({})
    assert not plain()


def test_the_table_has_all_operators_of_both_networks():
    measured = lowering.table()["cpu"]
    operators = set(get_args(lowering.Operator)) - {"separable"}  # which the CPU does not fuse
    assert set(measured["xception"]["milliseconds"]) == operators
    assert set(measured["inception_v3"]["milliseconds"]) == operators - {"depthwise"}


def test_other_platforms_keep_the_reference(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert primitives((1, 1), "SAME", feature_group_count=6) == {"conv_general_dilated"}


def test_operators_can_be_traced_for_another_platform():
    with ops.for_platform("tpu"):
        assert primitives((1, 1), "SAME", feature_group_count=6) == {"conv_general_dilated"}
        with ops.for_platform("cpu"):
            assert "mul" in primitives((1, 1), "SAME", feature_group_count=6)
    assert "mul" in primitives((1, 1), "SAME", feature_group_count=6)
    with pytest.raises(UserError, match='unknown platform "tpus"; did you mean "tpu"'), ops.for_platform("tpus"):
        pass
