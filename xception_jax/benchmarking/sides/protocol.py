"""The protocol between the benchmark and a side of a comparison: lines of JSON on its input and output.

Each side is a separate process, so that the thread pools of two libraries do not interfere and memory is counted per
side. All sides prepare at the same time. From then on a side works when it is its turn, and is stopped during the
others' turns:

    {"do": "prepare", "task": {...}}  ->  {"facts": {...}}       built, compiled, run once
    {"do": "warm_up"}                 ->  {"repeats": 4}         units of work a turn
    {"do": "turn"}                    ->  {"seconds": 0.1}       per unit of work, a mean over a turn
    {"do": "finish"}                  ->  {"memory": {...}, "facts": {...}}

"finish" is followed by the next "prepare" or the end of the input. The answer {"left_out": "why"} means that the side
cannot do the task. This file imports nothing from the package: peers run in interpreters without it.
"""

import collections
import contextlib
import ctypes
import dataclasses
import itertools
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
SECONDS_PER_TURN = 0.4  # minimum: shorter work is repeated
MAX_REPEATS = 1000
# Batches per unit of work of an input pipeline: many more than it prefetches.
BATCHES = 64


class LeftOut(Exception):
    """This side cannot do the task; the message says why."""


@dataclasses.dataclass
class Work:
    """A task, ready to be measured.

    Attributes:
      run: does one unit of work; may return before it is done.
      wait: waits until all work is done.
      facts: for the report.
      memory: returns the peak memory since the work began; None: that of the process since warm-up is used.
      warm_up: whether the first run takes longer, and short work is repeated.
    """

    run: Callable[[], Any]
    wait: Callable[[], Any] = lambda: None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    memory: Callable[[], dict[str, Any]] | None = None
    warm_up: bool = True

    def seconds(self, repeats: int) -> float:
        """The time per unit of work, a mean over `repeats`."""
        began = time.perf_counter()
        for _ in range(repeats):
            self.run()
        self.wait()
        return (time.perf_counter() - began) / repeats


def batches_of(stream: Iterator[Any], facts: dict[str, Any] | None = None) -> Work:
    """The work of an input pipeline: a unit is `BATCHES` of its batches."""
    return Work(lambda: collections.deque(itertools.islice(stream, BATCHES), maxlen=1), facts=facts or {})


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Answers messages until the input ends. Anything printed meanwhile goes to standard error."""
    with contextlib.suppress(OSError, AttributeError):  # a stopped side must not outlive the benchmark
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    state: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = _ACTIONS[message["do"]](state, prepare, message)
        except LeftOut as e:
            answer = {"left_out": str(e)}
        except Exception as e:
            traceback.print_exc()
            kind = type(e).__name__
            said = str(e).strip().partition("\n")[0]
            answer = {"left_out": said if kind == "UserError" else f"{kind}: {said}"}
        print(json.dumps(answer), file=answers)


def _prepare(state: dict[str, Any], prepare: Callable[[dict[str, Any]], Work], message: dict[str, Any]) -> Any:
    state.clear()  # the last task's memory
    work = prepare(message["task"])
    if work.warm_up:
        work.seconds(1)  # compiles, allocates
    state["work"], state["repeats"] = work, 1
    return {"facts": work.facts}


def _warm_up(state: dict[str, Any], prepare: Any, message: dict[str, Any]) -> Any:
    if state["work"].warm_up:
        once = state["work"].seconds(1)
        state["repeats"] = max(1, min(MAX_REPEATS, round(SECONDS_PER_TURN / max(once, 1e-9))))
    _reset_process_peak()
    return {"repeats": state["repeats"]}


def _turn(state: dict[str, Any], prepare: Any, message: dict[str, Any]) -> Any:
    return {"seconds": state["work"].seconds(state["repeats"])}


def _finish(state: dict[str, Any], prepare: Any, message: dict[str, Any]) -> Any:
    work = state.pop("work")
    return {"memory": work.memory() if work.memory else process_peak(), "facts": work.facts}


_ACTIONS = {"prepare": _prepare, "warm_up": _warm_up, "turn": _turn, "finish": _finish}


def _reset_process_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:  # noqa: PTH123
        f.write("5")


def process_peak() -> dict[str, Any]:
    """The peak resident memory of this process: since warm-up on Linux, since its start elsewhere."""
    with contextlib.suppress(OSError), open("/proc/self/status") as f:  # noqa: PTH123
        for line in f:
            if line.startswith("VmHWM:"):
                return {"bytes": int(line.split()[1]) * 1024, "kind": "process"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "kind": "process"}
