"""The command as the user called it, for messages that say how to."""

from xception_jax.errors import UserError

program = ""  # "xception-jax predict", which `dispatch` sets


def command(module: str) -> str:
    """How the command was called: "xception-jax predict" or "python -m xception_jax.predict"."""
    return program or f"python -m xception_jax.{module}"


def wrong_usage(module: str, usage: str) -> UserError:
    """What is said of arguments that are missing or too many."""
    return UserError(f"usage: {command(module)} {usage}")
