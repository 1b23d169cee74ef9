"""Several processes, one work directory: they see the same files in it, and say so before anything is trained."""

import socket
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from xception_jax.errors import UserError
from xception_jax.parallel.processes import exchange, primary

WAITS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further look: file servers answer from caches
T = TypeVar("T")


def check_shared(workdir: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Returns if each process sees a file in its `workdir` that the first process has just written to its own.

    Raises:
      UserError: in every process, if one does not see it.
    """
    if jax.process_count() == 1:
        return
    token = workdir / f".shared-{uuid.uuid4().hex}"
    if primary():
        token.touch()
    name = exchange(token.name)[0]
    waits = iter(WAITS)
    while not (seen := (workdir / name).exists()) and (wait := next(waits, None)) is not None:
        sleep(wait)
    places = exchange([seen, f"{workdir} on {socket.gethostname()}"])
    token.unlink(missing_ok=True)  # the first process's; nobody else has one
    blind = [f"process {i} ({place})" for i, (sees, place) in enumerate(places) if not sees]
    if blind:
        raise UserError(
            f"the processes do not share the work directory: what process 0 ({places[0][1]}) writes is not seen by "
            f"{', '.join(blind)}; use a --workdir on a file system that all of them have"
        )


def agreed(
    look: Callable[[], T], what: str, *, waits: Sequence[float] = WAITS, sleep: Callable[[float], None] = time.sleep
) -> T:
    """What `look` finds in every process, which is the same, perhaps after some time.

    Args:
      look: returns what JSON can hold.
      what: it is, for people.
      waits: seconds before each further look, as long as the processes do not find the same.
      sleep: `time.sleep`.

    Raises:
      UserError: in every process, if they do not find the same.
    """
    for wait in (*waits, None):
        own = look()
        found = exchange(own)
        if all(value == found[0] for value in found):
            return own
        if wait is not None:
            sleep(wait)
    listed = "; ".join(f"process {i}: {value}" for i, value in enumerate(found))
    raise UserError(f"the processes do not see the same {what} ({listed}); give all of them the same files")
