"""How operators are lowered: to the fastest form for a platform, or to plain `lax`, the reference.

On the CPU this follows a table measured by `python -m xception_jax.benchmark --what=operators --lowerings=FILE`.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from contextvars import ContextVar
from importlib import resources
from typing import Literal, get_args

import jax

from xception_jax.errors import UserError, suggest

Choice = Literal["auto", "fast", "reference"]
Operator = Literal["batch norm", "convolution", "depthwise", "max pool", "pointwise", "separable"]
Platform = Literal["cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class Lowering:
    """The forms in which operators are traced.

    Attributes:
      choice: "auto" selects the fastest form on the platform, on the CPU according to measurements; "fast" always
        selects the optimized form; "reference" selects the plain `lax` operators.
      platform: the platform to trace for; None: the default backend. Programs for devices that are not attached (plans,
        exports) have to set it.
      without: operators that are traced in their plain form, because their kernels are not trusted (`ops.trust`).

    Raises:
      UserError: unknown choice or platform.
    """

    choice: Choice = "auto"
    platform: Platform | None = None
    without: frozenset[Operator] = frozenset()

    def __post_init__(self) -> None:
        for what, value, choices in (("lowering", self.choice, Choice), ("platform", self.platform, Platform)):
            if value is not None and value not in get_args(choices):
                raise UserError(f'unknown {what} "{value}"; {suggest(str(value), get_args(choices))}')

    @property
    def target(self) -> str:
        """The platform: "cpu", "gpu" or "tpu"."""
        return self.platform or jax.default_backend()

    def fast(self, operator: Operator | None = None, *, on: Platform | None = None) -> bool:
        """Whether to trace an operator in its fast form.

        Args:
          operator: its name; required on CPUs, where operators are measured individually, and where it has kernels.
          on: the only platform with a fast form; None: all platforms have it.
        """
        if self.choice == "reference" or on not in (None, self.target) or operator in self.without:
            return False
        if self.target != "cpu" or self.choice == "fast":
            return True
        assert operator is not None
        return is_faster(operator)

    @property
    def fuses(self) -> bool:
        """Whether to trace everything between two batch normalizations as one operator."""
        return self.fast("separable", on="gpu") or self.fast("separable", on="tpu")


_current: ContextVar[Lowering] = ContextVar("lowering")


def current() -> Lowering:
    """The lowering in scope; outside any `use` block, "auto" for the default backend."""
    return _current.get(Lowering())


@contextlib.contextmanager
def use(lowering: Lowering) -> Iterator[None]:
    """Sets this thread's lowering within a `with` block. Programs that are already traced do not change."""
    token = _current.set(lowering)
    try:
        yield
    finally:
        _current.reset(token)


def as_reference() -> contextlib.AbstractContextManager[None]:
    """`use` with plain `lax`."""
    return use(dataclasses.replace(current(), choice="reference"))


def for_platform(name: Platform) -> contextlib.AbstractContextManager[None]:
    """`use` with the lowering in scope, for another platform."""
    return use(dataclasses.replace(current(), platform=name))


@functools.cache
def is_faster(operator: Operator) -> bool:
    """Whether the CPU's fast form took no longer than the reference, in total over the measured networks."""
    networks = [network["milliseconds"].get(operator) for network in table().get("cpu", {}).values()]
    fast, plain = (sum(times[lowering] for times in networks if times) for lowering in ("fast", "reference"))
    return fast <= plain


def table() -> dict[str, dict[str, dict]]:
    """The contents of `lowerings.json`: by platform and network, when and on what it was `measured`, and the
    `milliseconds` that each operator takes in a training step, with the "fast" and the "reference" lowering."""
    return json.loads(resources.files(__package__).joinpath("lowerings.json").read_text())
