"""Ownership of a work directory (one run at a time), and status.json, which shows a run's progress."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xception_jax.errors import UserError
from xception_jax.filesystem import atomic
from xception_jax.parallel.preemption import Preempted
from xception_jax.parallel.processes import primary

BEAT_SECONDS = 10  # status.json is written at least this often
SILENT_SECONDS = 4 * BEAT_SECONDS  # a run on another host that is silent for this long is considered dead


class Status:
    """Owns a work directory, and keeps its status.json up to date. Use it in a `with` block.

    status.json holds state (starting, training, evaluating; at the end finished, preempted or failed, with error),
    step, total_steps, seconds_left, saved_step, save_seconds, failed_saves (consecutive), unreadable (number of
    images), and of the process that writes it host, pid, started and heartbeat (seconds since 1970). Only the first
    process writes it.

    The directory is locked by the kernel (`flock` on the file `lock`), which releases the lock however the process
    ends. If the last owner was on another host, or the file system does not support locks, its heartbeat decides.

    If a start ends by an error before its state was updated, the file of the runs before is put back: a start that is
    refused changes nothing.

    Args:
      workdir: the run's folder.
      sleep: `time.sleep`.

    Raises:
      UserError: another run is using the directory.
    """

    def __init__(self, workdir: Path, *, sleep: Callable[[float], None] = time.sleep):
        self._path = workdir / "status.json"
        self._fields: dict[str, Any] = {"state": "starting", "host": socket.gethostname(), "pid": os.getpid()}
        self._fields["started"] = time.time()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        if not primary():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._refuse_if_owned(workdir, sleep)
        self._before = self._path.read_bytes() if self._path.exists() else None
        self.update()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _refuse_if_owned(self, workdir: Path, sleep: Callable[[float], None]) -> None:
        owner = read_status(workdir)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = owner.get("host") == self._fields["host"]  # the lock is free, so the last owner is gone
        except BlockingIOError:
            raise UserError(_in_use(workdir, read_status(workdir))) from None
        except OSError:  # this file system does not support locks
            known = False
        if known or owner.get("state") in (None, "finished", "preempted", "failed"):
            return
        print(f"Process {owner['pid']} on {owner['host']} was using {workdir}; checking whether it is still alive.")
        sleep(SILENT_SECONDS)
        if read_status(workdir).get("heartbeat") != owner.get("heartbeat"):
            raise UserError(_in_use(workdir, owner))

    def update(self, **fields: Any) -> None:
        """Sets fields and writes the file. If it cannot be written now, the next heartbeat does it."""
        if not primary():
            return
        with self._writing, contextlib.suppress(OSError):
            self._fields |= fields
            text = json.dumps({**self._fields, "heartbeat": time.time()}, indent=2)
            atomic.write_atomically(self._path, text + "\n", durable=False)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Sets the state to evaluating inside the `with` block."""
        self.update(state="evaluating")
        yield
        self.update(state="training")

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self.update()

    def close(self, state: str, **fields: Any) -> None:
        """Writes the final state, and releases the directory."""
        self._closed.set()
        if not primary():
            return
        if state == "failed" and self._fields["state"] == "starting" and self._before is not None:
            with self._writing, contextlib.suppress(OSError):
                atomic.write_atomically(self._path, self._before, durable=False)
        else:
            self.update(state=state, seconds_left=0 if state == "finished" else None, **fields)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close("finished")
        elif isinstance(error, Preempted):
            self.close("preempted")
        else:
            self.close("failed", error=str(error) or type(error).__name__)


def read_status(workdir: Path) -> dict[str, Any]:
    """The contents of status.json, or {} if it cannot be read."""
    try:
        return json.loads((workdir / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def _in_use(workdir: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
    return f"{who} is using {workdir}; stop it first, or use another --workdir"
