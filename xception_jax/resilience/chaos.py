"""Kills a run repeatedly at random moments, and checks that nothing is lost.

    python -m xception_jax.resilience.chaos --config=configs/quickstart.py --kills=25 --seed=0 --damage

Sends SIGKILL or SIGTERM while the run starts, trains, evaluates or saves. With `--damage` it also damages files of the
latest checkpoint in between; with `--processes=2` it kills one or both of two processes. Finally the run finishes, and
is compared with an uninterrupted one. Exits with 1 if a bit differs. Other flags are those of the training command.
"""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xception_jax.resilience import command

if TYPE_CHECKING:
    import numpy as np

    from xception_jax.resilience.runs import Running

STEPS_PER_KILL = 6  # maximum number of steps before the next kill
MOMENTS = {"while it trains": 0.4, "while it saves": 0.3, "while it evaluates": 0.15, "at any time": 0.15}
DAMAGED = 0.4  # fraction of the kills after which a file is damaged, with --damage
MOST_SECONDS = 120  # maximum time for the processes of a run to end when one of them is killed


@dataclasses.dataclass
class Kill:
    """One interruption and its outcome."""

    signal: str
    moment: str
    processes: list[int]
    exit_codes: list[int] = dataclasses.field(default_factory=list)
    step: int = -1  # last one reported before the kill; -1: the run was still starting
    saved: int | None = None  # last complete checkpoint after the kill
    damage: str = ""

    def as_promised(self) -> bool:
        """Whether all exit codes are as promised in docs/resilience.md."""
        from xception_jax.parallel.preemption import RESTART

        expected, of_survivors = {RESTART}, {RESTART}
        if self.signal == "SIGKILL":
            expected |= {-signal.SIGKILL}  # not always: it may have ended because another process was killed
            of_survivors |= {-signal.SIGABRT}  # JAX aborts a process whose peer died before our own code can exit
        elif self.step < 0:
            expected |= {-signal.SIGTERM}  # the process may still be starting Python, before our handler is installed
        return all(
            code in (expected if i in self.processes else of_survivors) for i, code in enumerate(self.exit_codes)
        )


def kill_once(run: "Running", rng: "np.random.Generator", start_seconds: float) -> Kill:
    """Waits for a random moment and sends a random signal to some of the run's processes."""
    number = signal.SIGKILL if rng.random() < 0.7 else signal.SIGTERM
    moment = str(rng.choice(list(MOMENTS), p=list(MOMENTS.values())))
    count = len(run.processes)
    which = sorted(rng.choice(count, size=int(rng.integers(1, count + 1)), replace=False).tolist())
    steps, deadline = int(rng.integers(1, STEPS_PER_KILL + 1)), time.monotonic() + start_seconds * 1.2 * rng.random()
    first: list[int] = []

    def trained() -> bool:
        if run.step() >= 0 and not first:
            first.append(run.step())
        return bool(first) and run.step() >= first[0] + steps

    conditions: dict[str, Callable[[], bool]] = {
        "while it trains": trained,
        "while it saves": run.saving,
        "while it evaluates": run.evaluating,
        "at any time": lambda: time.monotonic() >= deadline or trained(),
    }
    if not run.wait_until(conditions[moment]):
        raise run.failure()
    kill = Kill(number.name, moment, which, step=run.step())
    kill.exit_codes = run.end(number, which, timeout=MOST_SECONDS)
    kill.saved = max(run.saved(), default=None)
    return kill


def chaos(flags: Sequence[str], folder: Path, kills: int, seed: int, processes: int, damaging: bool) -> bool:
    """Kills, compares and prints; writes kills.jsonl into `folder`. Returns whether all promises were kept.

    Raises:
      UserError, TrainingError: a run failed.
    """
    import numpy as np

    from xception_jax.resilience.runs import Running, compare, damage

    rng = np.random.default_rng(seed)
    steps = STEPS_PER_KILL * kills
    flags = [
        *flags,
        f"--config.num_steps={steps}",
        "--config.schedule.warmup=0 steps",  # it might be longer than the run
        "--config.log_every=1 steps",
        "--config.checkpoint.every=4 steps",
        "--config.evaluation.every=5 steps",
    ]
    unbroken, workdir = folder / "unbroken", folder / "killed"
    began = time.monotonic()
    run = Running(flags, unbroken, processes=processes, devices=1)
    started = run.wait_until(lambda: run.step() >= 1)
    start_seconds = time.monotonic() - began
    if not started or run.end(timeout=3600) != [0] * processes:
        raise run.failure()
    good = True
    with (folder / "kills.jsonl").open("w") as log:
        for i in range(kills):
            kill = kill_once(Running(flags, workdir, processes=processes, devices=1), rng, start_seconds)
            if damaging and kill.saved is not None and rng.random() < DAMAGED:
                files = sorted(p for p in (workdir / "checkpoints" / str(kill.saved)).rglob("*") if p.is_file())
                kill.damage = damage(files[rng.integers(len(files))], rng)
            good = good and kill.as_promised()
            print(f"{i + 1}/{kills} {json.dumps(dataclasses.asdict(kill))}", flush=True)
            log.write(json.dumps(dataclasses.asdict(kill)) + "\n")
    last = Running(flags, workdir, processes=processes, devices=1)
    if last.end(timeout=3600) != [0] * processes:
        raise last.failure()
    difference = compare(workdir, unbroken, steps)
    print(f"{kills} kills, {steps} steps: {dataclasses.asdict(difference)}")
    return good and difference.equal


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("chaos", __doc__)
    parser.add_argument("--kills", type=int, default=25, help="(25)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments, signals and damage (0)")
    parser.add_argument("--processes", type=int, default=1, help="number of processes of the run (1)")
    parser.add_argument("--damage", action="store_true", help="also damage files of the latest checkpoint")
    options, flags = parser.parse_known_args(argv)
    return command.run(
        lambda folder: chaos(flags, folder, options.kills, options.seed, options.processes, options.damage),
        options.folder,
    )


if __name__ == "__main__":
    sys.exit(main())
