"""Counts and numbers as people read them."""

import math
from typing import Literal

DIGITS = 4


def counted(n: int, what: str) -> str:
    """A count and what is counted: "1 class", "1,000 classes"."""
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{n:,} {what if n == 1 else plural}"


def outputs(n: int, scores: str) -> str:
    """How many outputs a network has, by what its scores are: "1,000 classes", of linear ones "1 number"."""
    return counted(n, "number" if scores == "linear" else "class")


def significant(value: float, sign: Literal["", "+"] = "") -> str:
    """Four significant digits, or all of a whole part that has more: 36,363, 0.9120, 12.35; 0, 1.2e-06, nan.

    `sign`: "+" writes it before positive values, too.
    """
    if not math.isfinite(value) or value == 0 or not 1e-4 <= abs(value) < 1e15:
        return f"{value:{sign}.{DIGITS}g}"
    return f"{value:{sign},.{max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))}f}"
