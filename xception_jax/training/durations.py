"""Lengths of time in training: "500 steps", "2 epochs" or "3000000 examples"."""

import re

from xception_jax.errors import UserError

_DURATION = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(step|epoch|example)s?\s*")


def in_steps(duration: str, *, batch_size: int, num_examples: int, key: str) -> float:
    """The number of optimizer steps, not rounded, that a duration lasts.

    Args:
      duration: a number and one of steps, epochs, examples.
      batch_size: examples a step.
      num_examples: examples an epoch.
      key: the setting it was given for, named in the error.

    Raises:
      UserError: the text is no duration.
    """
    match = _DURATION.fullmatch(duration)
    try:
        number = float(match[1]) if match else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise UserError(
            f'config.{key} is "{duration}", which is no duration; write a number and a unit, such as '
            '"500 steps", "2 epochs" or "3000000 examples"'
        )
    return number * {"step": 1.0, "epoch": num_examples / batch_size, "example": 1 / batch_size}[match[2]]
