"""Errors that the user can fix: one line that says what is wrong and what to do."""

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator


class UserError(ValueError):
    """A mistake in the user's input. The commands print its message, without a traceback, and exit with 2."""


class TrainingError(RuntimeError):
    """A run cannot continue (its loss is NaN, say). The commands print its message and exit with 1."""


class StorageError(RuntimeError):
    """Data cannot be read for now, but may be later. The commands print its message and exit with 75."""


class WeightsFileError(UserError):
    """A weight file is damaged or malicious, or the file is not a weight file."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the closest valid one, or all of them."""
    choices = sorted(choices)
    nearest = difflib.get_close_matches(name, choices, n=1)
    if nearest:
        return f'did you mean "{nearest[0]}"?'
    return f"choose from: {', '.join(choices)}"


def some(names: Collection[str], most: int = 5) -> str:
    """A few names, and how many there are besides."""
    shown = [name.encode(errors="replace").decode() for name in list(names)[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def reason(error: BaseException) -> str:
    """What an exception of another library says, its first line; its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around the import of a library that not everybody installs.

    Args:
      extra: the one of xception-jax that has the library.
      what: cannot do without; the message begins with it.

    Raises:
      UserError: the library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        raise UserError(f"{what} needs {e.name}, which is not installed: pip install 'xception-jax[{extra}]'") from None
