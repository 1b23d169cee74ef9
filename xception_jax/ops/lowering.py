"""How operators are lowered: by the fastest form for a platform, or as plain `lax`, the reference.

On the CPU a table decides, which `python -m xception_jax.benchmark --what=operators --lowerings=FILE` measures.
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
Operator = Literal["batch norm", "convolution", "depthwise", "max pool", "pointwise"]
Platform = Literal["cpu", "gpu", "tpu"]


@dataclasses.dataclass(frozen=True)
class Lowering:
    """What operators are traced as.

    Attributes:
      choice: "auto" takes what is fastest on the platform, on the CPU what was measured to be; "fast" what was written
        to be; "reference" the plain `lax` operators.
      platform: what is traced for; None: the default backend. A program for a device that is not there (a plan, an
        export) has to name it.

    Raises:
      UserError: an unknown choice or platform.
    """

    choice: Choice = "auto"
    platform: Platform | None = None

    def __post_init__(self) -> None:
        for what, value, choices in (("lowering", self.choice, Choice), ("platform", self.platform, Platform)):
            if value is not None and value not in get_args(choices):
                raise UserError(f'unknown {what} "{value}"; {suggest(str(value), get_args(choices))}')

    @property
    def target(self) -> str:
        """The platform: "cpu", "gpu" or "tpu"."""
        return self.platform or jax.default_backend()

    def fast(self, operator: Operator | None = None, *, on: Platform | None = None) -> bool:
        """Whether an operator is to be traced in its fast form.

        Args:
          operator: which; on CPUs it has to be named, because they are measured one by one.
          on: the only platform that the fast form is for; None: it is for all.
        """
        if self.choice == "reference" or on not in (None, self.target):
            return False
        if self.target != "cpu" or self.choice == "fast":
            return True
        assert operator is not None
        return is_faster(operator)

    @property
    def fuses(self) -> bool:
        """Whether what is between two batch normalizations is to be traced as one operator."""
        return self.fast(on="gpu") or self.fast(on="tpu")


_current: ContextVar[Lowering] = ContextVar("lowering")


def current() -> Lowering:
    """The lowering in scope; outside of all `use` blocks, "auto" for the default backend."""
    return _current.get(Lowering())


@contextlib.contextmanager
def use(lowering: Lowering) -> Iterator[None]:
    """Within the `with` block, operators are traced so in this thread. What is already traced stays as it is."""
    token = _current.set(lowering)
    try:
        yield
    finally:
        _current.reset(token)


def as_reference() -> contextlib.AbstractContextManager[None]:
    """`use` of plain `lax`."""
    return use(dataclasses.replace(current(), choice="reference"))


def for_platform(name: Platform) -> contextlib.AbstractContextManager[None]:
    """`use` of what is in scope, for another platform."""
    return use(dataclasses.replace(current(), platform=name))


@functools.cache
def is_faster(operator: Operator) -> bool:
    """Whether the CPU's fast form took no longer than the reference, of all uses in the networks measured."""
    networks = [network["milliseconds"].get(operator) for network in table().get("cpu", {}).values()]
    fast, plain = (sum(times[lowering] for times in networks if times) for lowering in ("fast", "reference"))
    return fast <= plain


def table() -> dict[str, dict[str, dict]]:
    """`lowerings.json`: by platform and network, when and on what it was `measured`, and the `milliseconds` that each
    operator takes in a step of training, with the "fast" lowering and with the "reference"."""
    return json.loads(resources.files(__package__).joinpath("lowerings.json").read_text())
