"""Kernels are checked on the device before they are used: here interpreted, with faults planted."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from xception_jax import ops
from xception_jax.ops import kernels, trust
from xception_jax.ops.gpu import depthwise_backward, depthwise_forward, strips

SMALL = (2, 7, 6, 8)


@pytest.fixture
def interpreted_gpu(monkeypatch):
    """The kernels for GPUs, interpreted on the CPU."""
    monkeypatch.setattr(trust, "RUNS", 1)
    monkeypatch.setattr(trust, "CALLS", 1)
    for module in (depthwise_forward, depthwise_backward):
        kernel = functools.partial(module.in_one_kernel, interpret=True)
        monkeypatch.setattr(module, "in_one_kernel", kernel)
    monkeypatch.setattr(strips, "as_operator", lambda kernel, plain: kernels.as_operator(kernel, plain))


def plant(monkeypatch, fault):
    """Changes what the forward kernel returns."""
    kernel = depthwise_forward.in_one_kernel
    monkeypatch.setattr(depthwise_forward, "in_one_kernel", lambda *args, **settings: fault(kernel(*args, **settings)))


def word(operator="separable", dtype="float32"):
    return trust.measure(operator, dtype, "gpu", SMALL)._replace(speedup=1.0).word


@pytest.mark.usefixtures("interpreted_gpu")
@pytest.mark.parametrize("dtype", trust.BOUNDS)
@pytest.mark.parametrize("operator", trust.OPERATORS)
def test_right_kernels_are_trusted(operator, dtype):
    assert word(operator, dtype) == "ok"


@pytest.mark.usefixtures("interpreted_gpu")
@pytest.mark.parametrize("dtype", trust.BOUNDS)
def test_an_operator_one_per_cent_wrong_is_caught(monkeypatch, dtype):
    plant(monkeypatch, lambda y: y * jnp.asarray(1.01, y.dtype))
    assert word(dtype=dtype) == "wrong"


@pytest.mark.usefixtures("interpreted_gpu")
def test_one_pixel_that_is_no_number_is_caught(monkeypatch):
    plant(monkeypatch, lambda y: y.at[0, 0, 0, 0].set(jnp.nan))
    assert word() == "wrong"


@pytest.mark.usefixtures("interpreted_gpu")
def test_a_kernel_that_does_not_compile_is_caught(monkeypatch):
    def fails(y):
        raise NotImplementedError("the compiler does not know this GPU")

    plant(monkeypatch, fails)
    verdict = trust.measure("separable", "float32", "gpu", SMALL)
    assert verdict.word == "failed"
    assert "does not know this GPU" in str(verdict)


@pytest.mark.parametrize(("speedup", "word"), [(1.5, "ok"), (0.95, "ok"), (0.8, "slower")])
def test_a_slower_kernel_is_not_used(speedup, word):
    assert trust.Verdict("separable", "bfloat16", 1e-3, speedup).word == word


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """As if the default device were a GPU whose separable convolutions are wrong. Counts the checks."""
    checked = []

    def measure(operator, dtype):
        checked.append(operator)
        return trust.Verdict(operator, dtype, error=0.5 if operator == "separable" else 1e-4)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(trust, "measure", measure)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield checked
    jax.config.update("jax_compilation_cache_dir", before)


def test_what_is_not_trusted_is_plain_and_checked_once(on_a_gpu, caplog):
    for _ in range(2):
        lowering = trust.trusted(ops.Lowering(), "bfloat16")
        assert lowering.without == {"separable"}
        assert not lowering.fuses
        assert lowering.fast("max pool", on="gpu")
    assert on_a_gpu == ["separable", "max pool"]
    trust.trusted(ops.Lowering(), "float32")
    assert on_a_gpu == ["separable", "max pool"] * 2


def test_another_driver_or_other_code_is_checked_again(on_a_gpu, monkeypatch, tmp_path):
    trust.trusted(ops.Lowering(), "bfloat16")
    monkeypatch.setattr(jax, "__version__", "99.0")
    trust.trusted(ops.Lowering(), "bfloat16")
    assert len(on_a_gpu) == 4


def test_a_damaged_record_is_checked_again(on_a_gpu, tmp_path):
    trust.trusted(ops.Lowering(), "bfloat16")
    (record,) = tmp_path.glob("kernels-*.json")
    assert len(json.loads(record.read_text())) == 2
    record.write_text("[{")
    trust.trusted(ops.Lowering(), "bfloat16")
    assert len(on_a_gpu) == 4


@pytest.mark.parametrize("lowering", [ops.Lowering("fast"), ops.Lowering("reference"), ops.Lowering(platform="tpu")])
def test_only_what_runs_here_by_default_is_checked(on_a_gpu, lowering):
    assert trust.trusted(lowering, "bfloat16") == lowering
    assert not on_a_gpu
