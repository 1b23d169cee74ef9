"""What the commands have in common: mistakes end in one line, and exit code 2."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from xception_jax.errors import UserError


def fail(error: Exception | str, code: int = 2) -> NoReturn:
    """Prints one line and exits."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def run(main: Callable[[list[str]], int | None], define_flags: Callable[[], None]) -> None:
    """Runs a command that takes arguments beside its flags.

    Args:
      main: takes the arguments; returns the exit code.
      define_flags: called only now: modules that are imported for other purposes define none.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        define_flags()
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as e:
            fail(e)
        return rest

    def call(argv: Sequence[str]) -> int | None:
        try:
            return main(list(argv[1:]))
        except UserError as e:
            fail(e)
        except OSError as e:
            fail(f"{e.filename} cannot be used: {e.strerror}")
        except KeyboardInterrupt:
            fail("interrupted", 130)

    app.run(call, flags_parser=parse)
