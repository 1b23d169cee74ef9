"""Which values the options of the networks may have."""

from collections.abc import Callable, Mapping
from typing import Any

from xception_jax.errors import UserError

Rule = tuple[Callable[[Any], bool], str]

_FRACTION: Rule = lambda v: 0 <= v < 1, "from 0 to below 1"
_POSITIVE: Rule = lambda v: v > 0, "positive"
# By option: whether a value is allowed, and what it must be.
RANGES: dict[str, Rule] = {
    "num_classes": (lambda v: v >= 0, "0 or more"),
    "width": _POSITIVE,
    "dropout": _FRACTION,
    "drop_path": _FRACTION,
    "hidden_dropout": _FRACTION,
    "bn_epsilon": _POSITIVE,
    "bn_momentum": _FRACTION,
    "middle_blocks": (lambda v: 0 <= v <= 8, "from 0 to 8"),
    "segments": (lambda v: v >= 1, "1 or more, or None for one a channel"),
    "output_stride": (lambda v: v in (32, 16, 8), "32, 16 or 8"),
}


def check_ranges(options: Mapping[str, Any], rules: Mapping[str, Rule] = RANGES, prefix: str = "") -> None:
    """Raises UserError if an option has a value that its rule does not allow; None is the option's default."""
    for name, (holds, meaning) in rules.items():
        value = options.get(name)
        if value is not None and not holds(value):
            raise UserError(f"{prefix}{name} is {value!r}; it must be {meaning}")
