"""The sides of a comparison take turns: one measures while the others are stopped. See `sides/protocol.py`."""

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

PACKAGE = Path(__file__).resolve().parent.parent
SIDES = PACKAGE / "benchmarking" / "sides"


class Side:
    """A process that measures on request and is stopped in between. Use it in a `with` block.

    It is stopped because threads of a process that merely waits may spin for a while or prefetch data.

    Args:
      program: a file in `sides/`.
      python: the interpreter; None: this one, which can import this package.
    """

    def __init__(self, program: str, python: str | None = None):
        # Processes on one accelerator must share its memory.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        if python is None:
            paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
            command = [sys.executable, "-m", f"xception_jax.benchmarking.sides.{program}"]
        else:
            command = [python, str(SIDES / f"{program}.py")]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            process_group=0,  # of its own, so that its worker processes stop with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal("SIGCONT")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        """Ends the process and its workers at once, so that whoever waits for its answer does not wait longer."""
        self._signal("SIGKILL")

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; {"left_out": reason} if the side cannot do the task or has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            self._signal("SIGSTOP")
        return json.loads(answer) if answer else {"left_out": self._last_words()}

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # not on Windows
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, getattr(signal, name))

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["nothing"]
        return f"its process exited with code {code}; last output: {lines[-1]}"


@dataclasses.dataclass
class Measured:
    """A side's measurements of a task.

    Attributes:
      seconds: per unit of work, one number per round.
      facts: reported by the side.
      memory: peak in bytes, and of what ("device" or "process").
      left_out: why it could not be measured, or None.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)
    left_out: str | None = None


def measure(sides: Mapping[str, tuple[Side, Mapping[str, Any]]], rounds: int) -> dict[str, Measured]:
    """Measures each side's task in turns: the first side, the second, ..., then the first again.

    All sides prepare at once: compiling takes most of a benchmark's time, and many cores if there are any.

    Args:
      sides: each side and its task, by name.
      rounds: number of turns per side.
    """
    result = {name: Measured() for name in sides}

    def ask(name: str, message: dict[str, Any]) -> dict[str, Any]:
        answer = sides[name][0].ask(message)
        result[name].left_out = answer.get("left_out")
        return answer

    def at_work() -> Iterator[str]:
        return (name for name in sides if result[name].left_out is None)

    def prepare(name: str) -> None:
        result[name].facts = ask(name, {"do": "prepare", "task": dict(sides[name][1])}).get("facts", {})

    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(prepare, sides))
        except KeyboardInterrupt:  # which sides, in process groups of their own, do not get
            for side, _ in sides.values():
                side.kill()
            raise
    for name in at_work():
        result[name].facts["repeats"] = ask(name, {"do": "warm_up"}).get("repeats")
    for _ in range(rounds):
        for name in at_work():
            if (seconds := ask(name, {"do": "turn"}).get("seconds")) is not None:
                result[name].seconds.append(seconds)
    for name in at_work():
        answer = ask(name, {"do": "finish"})
        result[name].memory, result[name].facts = answer.get("memory", {}), {**result[name].facts, **answer["facts"]}
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(ours: Measured, theirs: Measured) -> dict[str, float]:
    """How many times faster we are, round by round."""
    return spread([b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)])
