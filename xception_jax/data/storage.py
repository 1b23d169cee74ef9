"""Storage that fails for a while: a file server that answers late, a disk that is away."""

import errno
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import logging

from xception_jax.errors import StorageError, UserError

T = TypeVar("T")

WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
# Errors about one file that stay: it is gone, may not be read, or is none.
LASTING = frozenset(
    (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
)


class Patience:
    """Reads again after errors that may pass. While storage is known to be away, each read is tried only once.

    Args:
      waits: seconds before each further try.
      sleep: `time.sleep`.
    """

    def __init__(self, waits: Sequence[float] = WAITS, sleep: Callable[[float], None] = time.sleep):
        self._waits, self._sleep = waits, sleep
        self._away = threading.Event()

    def __call__(self, read: Callable[[], T], name: Callable[[], str]) -> T:
        """What `read` returns; `name` is asked for what is read if it fails.

        Raises:
          UserError: it is not there any more, or may not be read.
          StorageError: it could not be read after all tries.
        """
        tries = 0 if self._away.is_set() else len(self._waits)
        for i in range(tries + 1):
            try:
                result = read()
            except OSError as e:
                why = e.strerror or str(e) or type(e).__name__
                if e.errno in LASTING:
                    raise UserError(f"{name()} cannot be read: {why}; restore it or its permissions") from None
                if i == tries:
                    self._away.set()
                    raise StorageError(
                        f"{name()} cannot be read ({why}), nor after {tries} more tries; the data's storage is away. "
                        "Run the same command when it is back"
                    ) from None
                logging.log_every_n_seconds(logging.WARNING, "%s cannot be read (%s), will retry", 10, name(), why)
                self._sleep(self._waits[i])
            else:
                self._away.clear()
                return result
        raise AssertionError
