"""Which values settings may have: rules by name, and their check."""

from collections.abc import Callable, Mapping
from typing import Any

from xception_jax.errors import UserError

Rule = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and what it must be


def positive(value: Any) -> bool:
    return value > 0


def not_negative(value: Any) -> bool:
    return value >= 0


def fraction(value: Any) -> bool:
    return 0 <= value < 1


def share(value: Any) -> bool:
    return 0 < value <= 1


def check_ranges(values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = "") -> None:
    """Raises UserError if a value is not what its rule allows; None, or a value that is missing, always is."""
    for name, (holds, meaning) in rules.items():
        value = values.get(name)
        if value is not None and not holds(value):
            raise UserError(f"{prefix}{name} is {value!r}; it must be {meaning}")
