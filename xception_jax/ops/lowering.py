"""Which lowering operators take: the fast one of the platform, or the plain `lax` reference.

On the CPU a table decides, which `python -m xception_jax.benchmark --what=operators --lowerings=FILE` measures.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Literal, get_args

import jax

from xception_jax.errors import UserError, suggest

Lowering = Literal["auto", "fast", "reference"]
Operator = Literal["batch norm", "convolution", "depthwise", "max pool", "pointwise"]
Platform = Literal["cpu", "gpu", "tpu"]

_lowering: Lowering = "auto"
_platform: Platform | None = None  # None: the default backend's


def set_lowering(lowering: Lowering) -> None:
    """Chooses the lowering of all operators traced from now on, in all threads.

    "auto" takes what is fastest on the `target()` platform, on the CPU what was measured to be; "fast" what was
    written to be; "reference" the plain `lax` operators. What is already compiled stays as it is.

    Raises:
      UserError: `lowering` is none of them.
    """
    global _lowering
    if lowering not in get_args(Lowering):
        raise UserError(f'unknown lowering "{lowering}"; {suggest(str(lowering), get_args(Lowering))}')
    _lowering = lowering


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Within the context operators are traced as plain `lax`, see `set_lowering`."""
    before = _lowering
    set_lowering("reference")
    try:
        yield
    finally:
        set_lowering(before)


@contextlib.contextmanager
def platform(name: Platform) -> Iterator[None]:
    """Within the context operators are traced for this platform, in all threads.

    What is compiled for a device that is not there (a plan, an export) needs it: while tracing, the default backend is
    all that is known otherwise. What is already traced stays as it is.

    Raises:
      UserError: an unknown platform.
    """
    global _platform
    if name not in get_args(Platform):
        raise UserError(f'unknown platform "{name}"; {suggest(str(name), get_args(Platform))}')
    before, _platform = _platform, name
    try:
        yield
    finally:
        _platform = before


def target() -> str:
    """The platform that operators are traced for: "cpu", "gpu" or "tpu"."""
    return _platform or jax.default_backend()


def use_reference(operator: Operator) -> bool:
    """Whether the operator is to be traced as plain `lax`."""
    return _lowering == "reference" or (_lowering == "auto" and target() == "cpu" and not is_faster(operator))


def fast_on_cpu(operator: Operator) -> bool:
    """Whether the operator is to be traced for the CPU."""
    return target() == "cpu" and not use_reference(operator)


def fast_on_gpu() -> bool:
    """Whether operators are to be traced for a GPU, where traffic with its memory is what limits."""
    return _lowering != "reference" and target() == "gpu"


def fast_on_tpu() -> bool:
    """Whether operators may be traced as kernels for TPUs; what these do not take keeps the reference."""
    return _lowering != "reference" and target() == "tpu"


def fused() -> bool:
    """Whether what is between two batch normalizations is to be traced as one operator."""
    return fast_on_gpu() or fast_on_tpu()


@functools.cache
def is_faster(operator: Operator) -> bool:
    """Whether the CPU's lowering took no longer than the reference, of all uses in the networks measured."""
    networks = [network["milliseconds"].get(operator) for network in table().get("cpu", {}).values()]
    fast, plain = (sum(times[lowering] for times in networks if times) for lowering in ("fast", "reference"))
    return fast <= plain


def table() -> dict[str, dict[str, dict]]:
    """`lowerings.json`: by platform and network, when and on what it was `measured`, and the `milliseconds` that each
    operator takes in a step of training, with the "fast" lowering and with the "reference"."""
    return json.loads(resources.files(__package__).joinpath("lowerings.json").read_text())
