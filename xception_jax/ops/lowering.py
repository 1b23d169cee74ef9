"""Which lowering operators take: the fast one of the platform, or the plain `lax` reference."""

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import jax

from xception_jax.errors import UserError, suggest

Lowering = Literal["auto", "reference"]

_lowering: Lowering = "auto"


def set_lowering(lowering: Lowering) -> None:
    """Chooses the lowering of all operators traced from now on, in all threads.

    "auto" takes what is fastest on `jax.default_backend()`, "reference" the plain `lax` operators. What is already
    compiled stays as it is. Compiling for another platform than the default one (a TPU ahead of time, an export) needs
    "reference": the default platform is all that is known while tracing.

    Raises:
      UserError: `lowering` is neither.
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


def fast_on_cpu() -> bool:
    """Whether operators are to be traced for the CPU. GPUs and TPUs keep the reference."""
    return _lowering == "auto" and jax.default_backend() == "cpu"
