"""Agreement between the processes of a run. With a single process, there is no communication."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from xception_jax.errors import StorageError, UserError

KINDS: dict[str, type[UserError] | type[StorageError]] = {"user": UserError, "storage": StorageError}


def primary() -> bool:
    """Whether this is the process that prints, logs and cleans up."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process. All processes must call this at the same point of the program."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def barrier(name: str) -> None:
    """Returns when all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """All processes' texts by name, sorted. All processes must call this at the same point of the program."""
    return dict(json.loads(item) for item in gather(json.dumps(item) for item in texts.items()))


def exchange(value: Any) -> list[Any]:
    """Every process's value, of what JSON can hold. All processes must call this at the same point of the program."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(data.size)).max())
    padded = np.pad(data, (0, longest - data.size), constant_values=ord(" "))
    return [json.loads(part.tobytes()) for part in multihost_utils.process_allgather(padded)]


def gather(names: Iterable[str]) -> list[str]:
    """The sorted union of all processes' names. All processes must call this at the same point of the program."""
    return sorted({name for part in exchange(sorted(set(names))) for name in part})


def raise_together(error: UserError | StorageError | None) -> None:
    """Raises an error that any process has, in all of them. All must call this at the same point of the program."""
    found = exchange(None if error is None else in_words(error))
    if error is not None:
        raise error
    for process, words in enumerate(found):
        if words is not None:
            raise of_process(process, words)


def in_words(error: UserError | StorageError) -> list[str]:
    """An error as its kind and message, for other processes."""
    return [kind for kind, cls in KINDS.items() if isinstance(error, cls)] + [str(error)]


def of_process(process: int, words: Sequence[str]) -> UserError | StorageError:
    """The error of another process, from its words."""
    kind, message = words
    return KINDS[kind](f"process {process}: {message}")
