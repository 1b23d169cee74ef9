"""The end of a run of several processes: what ends one of them ends all, with one exit code.

What a process finds alone (a lock, too many unreadable images, a signal) it announces in the key-value store of JAX's
distributed service. A thread of every process waits for an announcement and ends its process wherever that is:
compiling, at a barrier, or in a collective operation with a process that will not come.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
from jax._src import distributed as jax_distributed  # the key-value store is not public

from xception_jax.errors import StorageError, UserError
from xception_jax.parallel.processes import in_words, of_process

KEY = "xception_jax/end"
NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # where JAX's preemption service announces a SIGTERM
GRACE_SECONDS = 1  # in which a process may find by itself what another one has announced
GATHER_SECONDS = 10  # how long those who leave wait for each other
ANSWER_SECONDS = 1  # how long the process with the service stays for its last answers
POLL_SECONDS = 2  # after which a thread looks whether it is still wanted
EXIT_CODES = {"user": 2, "storage": os.EX_TEMPFAIL}


class End(NamedTuple):
    """Why a run ends.

    Attributes:
      process: the one that found it.
      code: everybody's exit code.
      message: for people.
    """

    process: int
    code: int
    message: str


@dataclasses.dataclass
class Hooks:
    """What the program has to say.

    Attributes:
      before_leaving: called before a process ends because of another one, to leave its files in order.
      may_leave: whether a SIGTERM may end the run at once.
    """

    before_leaving: Callable[[End], None] = lambda end: None
    may_leave: Callable[[], bool] = lambda: True


hooks = Hooks()
_leaving = threading.Lock()
_closed = threading.Event()
_threads: list[threading.Thread] = []


@contextlib.contextmanager
def before_leaving(call: Callable[[End], None]) -> Iterator[None]:
    """Within the context, `call` is called before the process ends because of another one."""
    before, hooks.before_leaving = hooks.before_leaving, call
    try:
        yield
    finally:
        hooks.before_leaving = before


def announced() -> End | None:
    """The announced end of the run, if there is one."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is none, or no service any more
        return End(*json.loads(_client().key_value_try_get(KEY)))
    return None


def announce(code: int, message: str) -> End:
    """Announces the end of the run; the first announcement counts, and is returned."""
    own = End(jax.process_index(), code, message)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first, or there is no service any more
        _client().key_value_set(KEY, json.dumps(own))
    return announced() or own


def leave(end: End, *, told: bool = True) -> NoReturn:
    """Ends this process when all have heard of the end, or after `GATHER_SECONDS`.

    Args:
      end: of the run.
      told: whether this process did not find it itself; then it says why it ends, and leaves its files in order.
    """
    if not _leaving.acquire(blocking=False):  # another thread is already at it
        threading.Event().wait()
    if told:
        print(f"error: process {end.process} ended the run: {end.message}", file=sys.stderr)
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().wait_at_barrier(KEY, GATHER_SECONDS * 1000)
    if jax.process_index() == 0:
        time.sleep(ANSWER_SECONDS)
    if told:
        with contextlib.suppress(Exception):  # nothing may keep it
            hooks.before_leaving(end)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(end.code)


def watch() -> None:
    """Watches for announcements from now on, and for a SIGTERM in any process while there is nothing to lose."""

    def heard(text: str) -> None:
        end = End(*json.loads(text))
        if end.process != jax.process_index():  # else it is leaving already
            time.sleep(GRACE_SECONDS)
            leave(end)

    def signalled(_: str) -> None:
        if hooks.may_leave():
            leave(announce(os.EX_TEMPFAIL, "stopped by SIGTERM; run the same command to resume"))

    for key, action in ((KEY, heard), (NOTICE, signalled)):
        _in_background(key, action)


class Stop:
    """A check at which all processes stop for an error that one of them has found, with the state of the same step.

    All processes count their checks, one before each step. None dispatches a step before it has read the metrics of the
    one before the last, so that none is two steps ahead of another. A process that has batches left for two steps can
    therefore choose the check before the third: when all others have heard of it, which it waits for, none has passed
    that check.
    """

    _count = 0

    def __init__(self) -> None:
        Stop._count += 1  # the same in all processes
        self._key = f"xception_jax/stop/{Stop._count}"
        self._at: int | None = None
        self._error: Exception | None = None
        if jax.distributed.is_initialized():
            _in_background(self._key, self._heard)

    def announce(self, check: int, error: UserError | StorageError) -> None:
        """Makes all processes stop at a check. A single process raises the error at once.

        If the others do not answer, or another one has announced an error, the run ends without saving.
        """
        if not jax.distributed.is_initialized():
            raise error
        self._error, self._at = error, check
        text = json.dumps([jax.process_index(), check, in_words(error)])
        try:
            _client().key_value_set(self._key, text)
            _client().wait_at_barrier(self._key, GATHER_SECONDS * 1000)
        except jax.errors.JaxRuntimeError:  # another one was first, or one is gone: nothing can be saved
            leave(announce(EXIT_CODES[in_words(error)[0]], str(error)))

    def check(self, count: int) -> None:
        """Raises the error, if this is the check to stop at."""
        if self._at is not None and count >= self._at:
            assert self._error is not None
            raise self._error

    def _heard(self, text: str) -> None:
        process, check, words = json.loads(text)
        if process != jax.process_index():
            self._error, self._at = of_process(process, words), check
            _client().wait_at_barrier(self._key, GATHER_SECONDS * 1000)


def finish(seconds: int) -> None:
    """At the good end of a run, waits for the others, who may still find something; then watches no longer."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().wait_at_barrier(f"{KEY}/well", seconds * 1000)
    _close()


def _in_background(key: str, action: Callable[[str], None]) -> None:
    """Calls `action` with the value of a key, when it has one, in a thread that ends before the interpreter does."""
    if not _threads:
        atexit.register(_close)
    _threads.append(threading.Thread(target=_wait_for, args=(_client(), key, action), name=key, daemon=True))
    _threads[-1].start()


def _wait_for(client: Any, key: str, action: Callable[[str], None]) -> None:
    while not _closed.is_set():
        try:
            value = client.blocking_key_value_get(key, POLL_SECONDS * 1000)
        except jax.errors.JaxRuntimeError as e:
            if "DEADLINE_EXCEEDED" not in str(e):
                return  # the service is gone, as JAX will say
        else:
            action(value)
            return


def _close() -> None:
    """Ends the threads: one that is in JAX's code when the interpreter ends would abort the process."""
    _closed.set()
    for thread in _threads:
        thread.join()


def _client() -> Any:
    return jax_distributed.global_state.client
