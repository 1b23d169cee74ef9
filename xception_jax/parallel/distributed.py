"""Several processes that are one run, on one machine or many: how they find each other, and how they stop together.

Each runs the same program on its own devices; `jax.distributed` tells them of each other. It finds out by itself how
many there are and which one this is on TPU pods and under SLURM and Open MPI; elsewhere these variables say it:

    JAX_COORDINATOR_ADDRESS   host:port of process 0, any free port there
    JAX_NUM_PROCESSES         how many
    JAX_PROCESS_ID            which one this is, from 0

Process 0 alone prints, logs and writes; all of them read their share of the data and write their share of checkpoints.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from xception_jax.errors import TrainingError, UserError
from xception_jax.parallel.processes import primary

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Where launchers say how many processes they have started: ours, SLURM's srun and Open MPI's mpirun.
COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# A process that is silent for so long (its machine is gone, say) is dead, and all others stop.
HEARTBEAT_SECONDS = 60
# What a process that ends waits for the others to end too; then they stop.
SHUTDOWN_SECONDS = 60
# How errors of JAX begin that are no other process' doing.
OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "FAILED_PRECONDITION")


def initialize(several: bool | None = None) -> None:
    """Joins the other processes. To be called before anything asks for a device; in a run of one it does nothing.

    Args:
      several: whether there are others; None: as the launcher's environment variables say. (On a TPU pod none do.)

    Raises:
      UserError: the variables are incomplete, or there are none and JAX does not know this cluster.
    """
    if several is None:
        several = any(_number(name, default=1) > 1 for name in COUNTS)
    if not several:
        return
    address, count, index = (os.environ.get(name) for name in VARIABLES)
    if any((count, index)) and not all((address, count, index)):
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        raise UserError(f"several processes need all of {', '.join(VARIABLES)}; {', '.join(missing)} missing")
    try:
        jax.distributed.initialize(
            address,
            _number(VARIABLES[1]) if count else None,
            _number(VARIABLES[2]) if index else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as e:  # JAX' own words are "coordinator_address should be defined" and the like
        raise UserError(f"the other processes cannot be found ({e}); set {', '.join(VARIABLES)}") from None
    if not primary():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _number(name: str, default: int = 0) -> int:
    """An environment variable's value."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f'{name} is "{text}"; it must be a number')
    return int(text)


def check_joined() -> None:
    """Raises UserError where the devices are those of several processes which have not joined: a TPU pod's."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(f"this is one of {jax.process_count()} processes; give --distributed to all of them")


@contextlib.contextmanager
def stopping_together() -> Iterator[None]:
    """Ends one of several processes at once where the `with` block fails for a reason that the others don't share.

    Most often that is another process' death, which shows as a failed exchange between devices. To leave in the usual
    way would be to wait for the dead. Errors of the user's and of the training itself, which all processes find alike,
    go their usual way.
    """
    try:
        yield
    except (UserError, TrainingError):
        raise
    except Exception as e:
        if not jax.distributed.is_initialized():
            raise
        code = 1
        traceback.print_exc()
        if isinstance(e, jax.errors.JaxRuntimeError) and not str(e).startswith(OWN_FAULTS):
            code = os.EX_TEMPFAIL
            print(
                "error: this process stops, because another has most likely died (see its output); the same command "
                "goes on from the last checkpoint",
                file=sys.stderr,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
