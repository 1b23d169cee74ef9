"""Agreement between the processes of a run. With a single process, there is no communication."""

import json
from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils


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


def gather(names: Iterable[str]) -> list[str]:
    """The sorted union of all processes' names. All processes must call this at the same point of the program."""
    names = sorted(set(names))
    if jax.process_count() == 1:
        return names
    data = np.frombuffer(json.dumps(names).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.int32(data.size)).max())
    padded = np.pad(data, (0, longest - data.size), constant_values=ord(" "))
    return sorted({name for part in multihost_utils.process_allgather(padded) for name in json.loads(part.tobytes())})
