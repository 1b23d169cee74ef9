"""Checks that an interrupted and resumed run equals an uninterrupted one, for any config, on the current machine.

    python -m xception_jax.resilience.verify_resume --config=configs/quickstart.py

Trains 2N steps without interruption. Then, for each kind of interruption, it trains N steps or a few more, interrupts
the run, and finishes it. Prints a table, and exits with 1 if a promise is broken: the restored state equals the
checkpoint bit for bit, on any number of devices; the examples of each step are those of the uninterrupted run; and on
the same devices every bit of the final parameters, batch statistics, averages and optimizer state equals that run's.
With another number of devices sums are rounded differently, and training amplifies this unpredictably, so the final
difference is only reported. Other flags are those of the training command.
"""

import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xception_jax.resilience import command

if TYPE_CHECKING:
    from xception_jax.resilience.runs import Running

ELSEWHERE = "on other devices"
Moment = Callable[["Running"], bool]


def ways(n: int) -> dict[str, tuple[signal.Signals, Moment]]:
    """The interruptions: the signal and the moment."""
    return {
        "killed between saves": (signal.SIGKILL, lambda run: run.step() > n),
        "killed during evaluation": (signal.SIGKILL, lambda run: run.evaluating() and run.saved() != []),
        "killed during a save": (signal.SIGKILL, lambda run: run.saving(after=n)),
        "preempted": (signal.SIGTERM, lambda run: run.step() > n),
        ELSEWHERE: (signal.SIGKILL, lambda run: run.step() > n),
    }


def verify(flags: Sequence[str], folder: Path, n: int, names: Sequence[str], devices: int | None) -> bool:
    """Runs the command, compares the results and prints them.

    Args:
      flags: of the training command.
      folder: for the work directories.
      n: half of the number of steps.
      names: of the `ways` to try.
      devices: CPU devices of the runs; None: the machine's accelerators.

    Returns:
      Whether all promises were kept.

    Raises:
      UserError, TrainingError: a run failed.
    """
    # Imported now: --help needs no jax.
    from xception_jax.parallel.preemption import RESTART
    from xception_jax.resilience.runs import PARTS, Running, compare, hashes, last_restored, last_state
    from xception_jax.terminal import console

    flags = [
        *flags,
        f"--config.num_steps={2 * n}",
        "--config.schedule.warmup=0 steps",  # it might be longer than the run
        "--config.log_every=1 steps",
        f"--config.checkpoint.every={max(1, n // 2)} steps",
        f"--config.evaluation.every={n} steps",
    ]

    def finish(workdir: Path, devices: int | None) -> None:
        run = Running(flags, workdir, devices=devices)
        if run.end(timeout=24 * 3600) != [0]:
            raise run.failure()

    unbroken = folder / "unbroken"
    finish(unbroken, devices)
    title = f"{2 * n} steps against {2 * n} with an interruption"
    table = console.table(title=title)
    for column in ("", "from step", "restored", "examples", *PARTS):
        table.add_column(column)
    good = True
    for name in names:
        number, moment = ways(n)[name]
        workdir = folder / name.replace(" ", "-")
        run = Running(flags, workdir, devices=devices)
        if not run.wait_until(functools.partial(moment, run)):
            raise run.failure()
        codes = run.end(number)
        assert codes == [RESTART if number == signal.SIGTERM else -number], f"{name}: exit code {codes}"
        moved = name == ELSEWHERE and devices is not None
        saved = hashes(last_state(workdir))
        finish(workdir, 2 * devices if moved and devices else devices)
        restored = last_restored(workdir)
        assert not moved or restored["devices"] != devices, "the run was not moved to other devices"
        unchanged, difference = restored["arrays"] == saved, compare(workdir, unbroken, 2 * n)
        good = good and unchanged and (difference.examples if moved else difference.equal)
        table.add_row(name, str(restored["step"]), "equal" if unchanged else "DIFFERENT", *difference.cells())
    console.console().print(table)
    return good


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("verify-resume", __doc__)
    parser.add_argument("--steps", type=int, default=10, help="N, half of the number of steps (10)")
    parser.add_argument("--ways", nargs="+", choices=ways(0), default=list(ways(0)), help="interruptions to try (all)")
    parser.add_argument("--devices", type=int, help="CPU devices of the runs (default: the machine's accelerators)")
    options, flags = parser.parse_known_args(argv)
    if options.devices is None:
        options.ways = [way for way in options.ways if way != ELSEWHERE]
        print("The number of accelerators cannot be changed; use --devices=1 to test on one and two CPU devices.")
    return command.run(
        lambda folder: verify(flags, folder, options.steps, options.ways, options.devices), options.folder
    )


if __name__ == "__main__":
    sys.exit(main())
