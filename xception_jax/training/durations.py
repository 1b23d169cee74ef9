"""Durations in training: "500 steps", "2 epochs" or "3000000 examples"."""

import re

from xception_jax.errors import UserError

_DURATION = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(step|epoch|example)s?\s*")


def in_steps(duration: str, *, batch_size: int, num_examples: int, key: str) -> float:
    """Converts a duration to optimizer steps, without rounding.

    Args:
      duration: a number and one of steps, epochs, examples.
      batch_size: examples per step.
      num_examples: examples per epoch.
      key: the setting's name, for errors.

    Raises:
      UserError: the text is not a duration.
    """
    match = _DURATION.fullmatch(duration)
    try:
        number = float(match[1]) if match else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise UserError(
            f'config.{key} is "{duration}", which is not a duration; write a number and a unit, such as '
            '"500 steps", "2 epochs" or "3000000 examples"'
        )
    return number * {"step": 1.0, "epoch": num_examples / batch_size, "example": 1 / batch_size}[match[2]]
