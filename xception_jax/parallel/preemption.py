"""SIGTERM, with which schedulers announce that a machine is about to be taken away."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from xception_jax.errors import StorageError, UserError
from xception_jax.parallel import ending

RESTART = 75  # exit code: stopped by SIGTERM, all is saved, run the same command to resume (EX_TEMPFAIL of sysexits.h)


class Preempted(Exception):
    """SIGTERM was received."""


class Preemption:
    """Handles SIGTERM inside a `with` block, in place of the previous handler.

    Only standalone programs should listen, because SIGTERM can end the process at once; notebooks should not.

    With several processes, JAX's distributed service listens in each and chooses the check at which all of them stop;
    while there is nothing to lose, all end at once.

    Args:
      listens: whether to listen.

    Attributes:
      nothing_to_lose: whether all work is saved. If so, SIGTERM ends the run at once, even during compilation.
        Set by the training loop.
      leave: called before the process is ended this way.
    """

    def __init__(self, *, listens: bool) -> None:
        self._may_listen = listens
        self.nothing_to_lose = True
        self.leave: Callable[[], None] = lambda: None
        self._wanted = False
        self._checks = 0
        self._stop = ending.Stop()

    def __enter__(self) -> Self:
        alone = jax.process_count() == 1
        self._listens = self._may_listen and alone and threading.current_thread() is threading.main_thread()
        if self._listens:
            # Python runs signal handlers between instructions of the main thread, which may be compiling for minutes.
            # The wake-up byte arrives at once.
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            threading.Thread(target=self._listen, args=(reader,), name="sigterm", daemon=True).start()
            self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self._old_handler = signal.signal(signal.SIGTERM, self._handle)
        ending.hooks.may_leave = lambda: self.nothing_to_lose
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ending.hooks.may_leave = lambda: True
        if self._listens:
            signal.signal(signal.SIGTERM, self._old_handler)
            signal.set_wakeup_fd(self._old_fd)
            self._writer.close()

    def check(self) -> None:
        """Raises Preempted after a SIGTERM, and errors at which all have agreed to `stop`.

        All processes must call it equally often: between steps and batches.
        """
        self._checks += 1
        self._stop.check(self._checks)
        if jax.process_count() > 1:
            self._wanted = multihost_utils.reached_preemption_sync_point(self._checks)
        if self._wanted:
            raise Preempted

    def stop(self, error: UserError | StorageError) -> None:
        """Makes `check` raise an error in all processes two checks from now; raises it at once if there is only one.

        Until then the caller must be able to take part in two steps.
        """
        self._stop.announce(self._checks + 2, error)

    def _handle(self, *_: Any) -> None:
        self._wanted = True

    def _listen(self, reader: socket.socket) -> None:
        for number in iter(lambda: reader.recv(1), b""):
            if number[0] == signal.SIGTERM and self.nothing_to_lose:
                print("Stopped by SIGTERM; run the same command to resume.", file=sys.stderr, flush=True)
                self.leave()
                os._exit(RESTART)
