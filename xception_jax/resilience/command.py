"""What the two commands have in common: their help, and how they end."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from xception_jax.errors import TrainingError, UserError
from xception_jax.filesystem import paths


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a command's flags, with those that both have."""
    result = argparse.ArgumentParser(
        f"xception-jax {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--helpshort", "--helpfull", action="help", help=argparse.SUPPRESS)  # as other commands
    result.add_argument("--folder", help="folder in which to keep the runs (default: they are deleted if all is well)")
    return result


def run(check: Callable[[Path], bool], given: str | None) -> int:
    """Checks promises in a folder; one that was not given is deleted if they are kept.

    Args:
      check: takes the folder; returns whether all promises were kept.
      given: the folder, or None.

    Returns:
      The exit code: 1 if a promise was broken or a run failed, 2 if that was the user's mistake.
    """
    try:
        folder = paths.workdir(given or tempfile.mkdtemp(prefix="runs-"))
        good = check(folder)
    except (UserError, TrainingError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2 if isinstance(e, UserError) else 1
    print("as promised" if good else f"NOT as promised; see {folder}")
    if good and given is None:
        shutil.rmtree(folder)
    return 0 if good else 1
