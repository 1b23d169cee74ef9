"""Is this machine ready? `python -m xception_jax.doctor`: devices, versions, kernels, input, disk, cache and hub.

Whatever is wrong is followed by what mends it; then the exit code is 1.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from xception_jax.cli import called, common

USAGE = "[--workdir=FOLDER]"


def define_flags() -> None:
    """The command's flags."""
    common.define_path("workdir", "runs", "The folder whose disk is tried.")


def main(arguments: Sequence[str]) -> int:
    """Prints what is found; returns 1 if something is wrong."""
    if arguments:
        raise called.wrong_usage("doctor", USAGE)
    from xception_jax.cli import health  # imports jax, which --help does not need
    from xception_jax.terminal.console import console

    out, wrong = console(), 0
    for check in health.checks(Path(flags.FLAGS.workdir)):
        for finding in check():
            out.print(f"{finding.about:9} {finding.found}", soft_wrap=True)
            if finding.mend:
                wrong += 1
                out.print(f"{'':9} -> {finding.mend}", soft_wrap=True)
    out.print("all is well" if not wrong else f"{wrong} to mend, see the arrows")
    return min(wrong, 1)


if __name__ == "__main__":
    common.run(main, define_flags)
