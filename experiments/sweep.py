"""Trains every variant of a config file with several seeds, and writes a record of each run:

    python -m experiments.sweep --config=experiments/cifar10/config.py --seeds=3 --workdir=runs/cifar10 \\
        --records=experiments/cifar10/results -- --config.data.path=FOLDER

The config file has `get_config(variant)` and its variants in `VARIANTS`. Each run is a process of
`python -m xception_jax.main` in WORKDIR/VARIANT/SEED, with the flags after `--`. All variants run with the first seed
before any runs with the second, so that what is there at any time can be compared. The same command resumes what was
ended, and leaves what is done or has a record. Exit code 1 if a run failed.
"""

import argparse
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from experiments import records
from xception_jax.cli.common import find_config_file
from xception_jax.errors import UserError, suggest
from xception_jax.filesystem import atomic

OUTPUT = "output.txt"  # in the work directory: what the run printed
FLAGS = "flags.json"  # there: the flags it was started with
FOLDERS = re.compile(r"(--config\.data\.(?:path|data_dir))=.*")  # each user's own


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
      variant: of the config file, with what a grid sets: "xception" or "xception,learning_rate=0.1".
      seed: of parameters, data and dropout.
      flags: of `xception_jax.main`.
      workdir: where it is written.
    """

    variant: str
    seed: int
    flags: tuple[str, ...]
    workdir: Path

    @property
    def flags_anywhere(self) -> list[str]:
        """The flags, without the names of the user's folders."""
        return [FOLDERS.sub(r"\1=FOLDER", flag) for flag in self.flags]

    def check(self) -> None:
        """Raises UserError if the work directory has a run that was started with other flags."""
        path = self.workdir / FLAGS
        if path.is_file() and (before := json.loads(path.read_text())) != self.flags_anywhere:
            raise UserError(f"{self.workdir} has a run with other flags ({shlex.join(before)}); use another --workdir")

    @property
    def done(self) -> bool:
        """Whether it has been trained and tested."""
        return (self.workdir / records.CERTIFICATE).is_file()


def planned(arguments: argparse.Namespace) -> list[Run]:
    """The runs, in their order.

    Raises:
      UserError: the config file has no variants, or not the one asked for.
    """
    arguments.config = find_config_file(Path(arguments.config))
    file = runpy.run_path(str(arguments.config))
    variants = list(file.get("VARIANTS", ()))
    if not variants:
        raise UserError(f"{arguments.config} has no VARIANTS; see experiments/cifar10/config.py")
    asked = arguments.variants.split(",") if arguments.variants else variants
    for name in asked:
        if name not in variants:
            raise UserError(f'{arguments.config} has no variant "{name}"; {suggest(name, variants)}')
        if (split := file["get_config"](name).data.test_split) != "test":
            raise UserError(f'variant "{name}" has data.test_split "{split}"; a sweep records the split "test"')
    grid = [setting.partition("=") for setting in arguments.grid]
    settings = [[(key, value) for value in values.split(",")] for key, _, values in grid]
    runs = []
    for seed, *point, variant in itertools.product(range(arguments.seeds), *settings, asked):
        name = ",".join([variant, *(f"{key}={value}" for key, value in point)])
        flags = (
            f"--config={arguments.config}:{variant}",
            f"--config.seed={seed}",
            *(f"--config.{key}={value}" for key, value in point),
            *arguments.flags,
        )
        runs.append(Run(name, seed, flags, arguments.workdir / name / str(seed)))
    return runs


class Slot(NamedTuple):
    """A part of the machine for one run: what stands before its command, and variables of its environment."""

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


def slots(jobs: int) -> list[Slot]:
    """The parts of the machine for runs that go on together: their GPUs or, without any, their cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = _gpus() if visible is None else [gpu for gpu in visible.split(",") if gpu]
    if gpus:
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / -(-jobs // len(gpus)):.3f}"}
        return [Slot((), {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **share}) for i in range(jobs)]
    cores = sorted(os.sched_getaffinity(0)) if shutil.which("taskset") else []
    if not 1 < jobs <= len(cores):
        return [Slot()] * jobs
    return [Slot(("taskset", "-c", ",".join(map(str, cores[i::jobs])))) for i in range(jobs)]


def _gpus() -> list[str]:
    """The numbers of this machine's NVIDIA GPUs."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, _ in enumerate(listed.splitlines())]


def train(run: Run, slot: Slot, processes: set[subprocess.Popen[bytes]]) -> int:
    """Runs a training to its end; returns its exit code."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(run.workdir / FLAGS, json.dumps(run.flags_anywhere))
    command = [*slot.prefix, sys.executable, "-m", "xception_jax.main", *run.flags, f"--workdir={run.workdir}"]
    with (run.workdir / OUTPUT).open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | slot.environment)
        processes.add(process)
        code = process.wait()
    processes.discard(process)
    return code


def sweep(arguments: argparse.Namespace) -> int:
    """Trains what is not done; returns the number of runs that failed."""
    runs = planned(arguments)
    for run in runs:
        run.check()
    waiting = [run for run in runs if not (run.done or records.path(arguments.records, run.variant, run.seed).exists())]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done; {arguments.jobs} at a time", flush=True)
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots(arguments.jobs):
        free.put(slot)
    processes: set[subprocess.Popen[bytes]] = set()
    ended, failed, began = threading.Event(), 0, time.monotonic()

    def in_slot(run: Run) -> int | None:
        slot = free.get()
        try:
            return None if ended.is_set() else train(run, slot, processes)
        finally:
            free.put(slot)

    for run in runs:
        if run.done:
            keep(run, arguments)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(in_slot, run): run for run in waiting}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                run, code = futures[future], future.result()
                left = (time.monotonic() - began) / number * (len(waiting) - number)
                if code == 0 and run.done:
                    said = keep(run, arguments)
                else:
                    failed += 1
                    said = f"failed with exit code {code}: {_last_line(run)}"
                hours, minutes = divmod(round(left / 60), 60)
                print(
                    f"{number}/{len(waiting)} {run.variant}, seed {run.seed}: {said}; {hours}:{minutes:02} left",
                    flush=True,
                )
        except KeyboardInterrupt:
            ended.set()
            for process in list(processes):
                process.terminate()  # a run saves its state before it ends
            raise
    return failed


def keep(run: Run, arguments: argparse.Namespace) -> str:
    """Writes a finished run's record, and returns what there is to say of it."""
    command = shlex.join(["python", "-m", "xception_jax.main", *run.flags_anywhere])
    record = records.record_of(run.workdir, run.variant, run.seed, command)
    records.write(arguments.records, record)
    test = ", ".join(f"{name} {record['test'][name]:.4f}" for name in ("top1", "loss") if name in record["test"])
    return f"test {test}, {record['train_seconds']:.0f} s of training"


def _last_line(run: Run) -> str:
    lines = (run.workdir / OUTPUT).read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'nothing was printed'} (see {run.workdir / OUTPUT})"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="a file with get_config(variant) and VARIANTS")
    parser.add_argument("--variants", default="", help="those to run, with commas; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help="settings to multiply the variants by"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs that go on together")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs' work directories")
    parser.add_argument("--records", type=Path, help="folder of the records; default: WORKDIR/records")
    parser.add_argument("flags", nargs="*", help="after --: flags of every run")
    arguments = parser.parse_args(argv)
    arguments.records = arguments.records or arguments.workdir / "records"
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the sweep; 2 for a mistake of the user, 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 1 if sweep(parse(argv)) else 0
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
