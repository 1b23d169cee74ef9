"""Runs as real processes that are watched, killed and compared; shared by `verify_resume` and `chaos`."""

import dataclasses
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from xception_jax.errors import TrainingError, UserError
from xception_jax.workdir.status import read_status

POLL_SECONDS = 0.001  # short compared with any event that is waited for
PARTS = {
    "parameters": "weights.params",
    "statistics": "weights.batch_stats",
    "averages": "averaged",
    "optimizer": "opt_state",
    "step": "step",
}


class Running:
    """The processes of one run, from start to end. Their output is appended to `workdir`.txt.

    Args:
      flags: of `xception_jax.main`.
      workdir: the run's folder.
      processes: number of processes.
      devices: number of CPU devices per process; None: use the devices of the environment.
    """

    def __init__(self, flags: list[str], workdir: Path, *, processes: int = 1, devices: int | None = None):
        self.workdir = workdir
        self.output = workdir.with_name(f"{workdir.name}.txt")
        env = dict(os.environ)
        if devices is not None:
            env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        others: list[dict[str, str]] = [{}]
        if processes > 1:
            shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_NUM_PROCESSES": str(processes)}
            others = [{**shared, "JAX_PROCESS_ID": str(i)} for i in range(processes)]
        command = [
            sys.executable,
            "-m",
            "xception_jax.resilience.recorded_run",
            *flags,
            f"--workdir={workdir.absolute()}",
        ]
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("a") as output:
            self.processes = [
                subprocess.Popen(command, env={**env, **other}, stdout=output, stderr=subprocess.STDOUT)
                for other in others
            ]

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Returns when the condition holds (True) or a process has ended (False)."""
        while not condition():
            if any(p.poll() is not None for p in self.processes):
                return False
            time.sleep(POLL_SECONDS)
        return True

    def end(
        self, number: signal.Signals | None = None, which: list[int] | None = None, timeout: float = 300
    ) -> list[int]:
        """Sends a signal to some processes (None: all), waits for all of them, and returns their exit codes.

        Raises:
          TrainingError: they do not end in `timeout` seconds.
        """
        if number is not None:
            for i in range(len(self.processes)) if which is None else which:
                self.processes[i].send_signal(number)
        try:
            return [p.wait(timeout) for p in self.processes]
        except subprocess.TimeoutExpired:
            self._kill()
            raise TrainingError(f"the run did not end in {timeout} seconds; see {self.output}") from None

    def failure(self) -> UserError | TrainingError:
        """What is to be said of a run that ended by itself, by the last line of its output; ends what is left of it.

        It is the user's mistake if a process says so by its exit code.
        """
        codes = [p.poll() for p in self.processes]
        self._kill()
        said = self.output.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it says nothing").removeprefix("error: ")
        return (UserError if 2 in codes else TrainingError)(f"the run failed: {last}; see {self.output}")

    def _kill(self) -> None:
        for p in self.processes:
            p.kill()
            p.wait()

    def step(self) -> int:
        """The last step reported by these processes, or -1."""
        status = read_status(self.workdir)
        return status.get("step", -1) if status.get("pid") == self.processes[0].pid else -1

    def saved(self) -> list[int]:
        """The steps of its complete checkpoints, in order."""
        return saved_steps(self.workdir)

    def evaluating(self) -> bool:
        """Whether the run is evaluating."""
        status = read_status(self.workdir)
        return status.get("pid") == self.processes[0].pid and status["state"] == "evaluating"

    def saving(self, after: int = 0) -> bool:
        """Whether a checkpoint of a step later than `after` is being written."""
        names = (path.name.partition(".") for path in (self.workdir / "checkpoints").glob("*.*tmp*"))
        return self.step() >= 0 and any(int(step) > after for step, _, _ in names)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints, in order."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal())


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by dotted name, whatever devices it was saved from."""
    state = workdir.absolute() / "checkpoints" / str(saved_steps(workdir)[-1]) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(state).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(state, args=ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy))
    return _by_name(restored)


def _by_name(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree, by dotted name; a state and its checkpoint give the same names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def hashes(tree: Any) -> dict[str, str]:
    """SHA-256 of the dtype, shape and bits of each array of a tree, by dotted name."""
    return {
        name: hashlib.sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest()
        for name, x in _by_name(tree).items()
    }


def last_restored(workdir: Path) -> dict[str, Any]:
    """The state from which the run was last resumed: step, number of devices, and the hash of each array on them."""
    return json.loads((workdir / "restored.jsonl").read_text().splitlines()[-1])


def examples_seen(workdir: Path) -> dict[int, set[tuple[tuple[int, ...], ...]]]:
    """The batches that were made for each step, as positions in the data set; several if they differed.

    The processes' parts of a batch are put together. (A process that is killed has prefetched some batches.)
    """
    shares: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    for path in sorted(workdir.glob("examples-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            shares[record["step"], record["process"]].append(tuple(record["index"]))
    batches: dict[int, set[Any]] = defaultdict(set)
    for step, group in itertools.groupby(sorted(shares), key=lambda key: key[0]):
        for parts in itertools.product(*(set(shares[key]) for key in group)):
            batches[step].add(tuple(itertools.chain(*parts)))
    return batches


@dataclasses.dataclass
class Difference:
    """The difference between two final states: for each part, 0 if all bits are equal, else |a - b| / |b|."""

    parts: dict[str, float]
    examples: bool  # whether both saw the same examples

    @property
    def equal(self) -> bool:
        """Whether the examples and every bit of the state are the same."""
        return self.examples and not any(self.parts.values())

    def cells(self) -> list[str]:
        """Cells for a table."""
        return [
            "equal" if self.examples else "DIFFERENT",
            *("equal" if d == 0 else f"{d:.1e}" for d in self.parts.values()),
        ]


def compare(a: Path, b: Path, steps: int) -> Difference:
    """Compares the last checkpoints of two runs and the examples of their first `steps` steps."""
    ours, theirs = last_state(a), last_state(b)
    assert ours.keys() == theirs.keys(), "the runs are of different networks"
    parts = {}
    for part, prefix in PARTS.items():
        names = [name for name in theirs if name.startswith(prefix)]
        equal = all(ours[name].tobytes() == theirs[name].tobytes() for name in names)
        parts[part] = 0.0 if equal else _distance([ours[name] for name in names], [theirs[name] for name in names])
    seen_a, seen_b = examples_seen(a), examples_seen(b)
    same = all(seen_a[s] == seen_b[s] and len(seen_a[s]) == 1 for s in range(1, steps + 1))
    return Difference(parts, same)


def _distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """|a - b| / |b| over all numbers."""
    x, y = (np.concatenate([array.ravel().astype(np.float64) for array in arrays]) for arrays in (a, b))
    return float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(y)), 1e-30)


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damages a file as disks and people do; returns a description."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["a bit flipped", "cut short", "emptied", "deleted", "512 zeros"])
    at = int(rng.integers(max(1, len(data))))
    if kind == "a bit flipped" and data:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == "512 zeros":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "cut short":
        del data[at:]
    elif kind == "emptied":
        data.clear()
    if kind == "deleted":
        path.unlink()
    else:
        path.write_bytes(data)
    return f"{path.name}: {kind}"
