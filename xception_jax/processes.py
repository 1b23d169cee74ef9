"""What the processes of a run agree on. With one process, nothing is asked."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def primary() -> bool:
    """Whether this is the one process that logs and tidies up."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether `flag` holds in any process. All processes have to ask, at the same point of the program."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def barrier(name: str) -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
