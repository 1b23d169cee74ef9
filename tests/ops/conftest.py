"""What the tests of operators share."""

import functools

import jax
import pytest

from xception_jax.ops import kernels
from xception_jax.ops.tpu import mosaic
from xception_jax.ops.tpu import pooling as pooling_tpu
from xception_jax.ops.tpu import separable as separable_tpu


@pytest.fixture
def interpreted(monkeypatch):
    """On one TPU v5e, as far as tracing sees; its kernels are interpreted, and take few pictures at a time."""
    monkeypatch.setattr(kernels, "device_kind", lambda: "TPU v5 lite")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(mosaic, "BLOCKS", (8,))
    for module in (pooling_tpu, separable_tpu):
        for name in ("forward_kernel", "backward_kernel"):
            monkeypatch.setattr(module, name, functools.partial(getattr(module, name), interpret=True))
