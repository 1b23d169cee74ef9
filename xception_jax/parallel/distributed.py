"""Runs of several processes, on one machine or many: how they find each other, and how they stop together.

Each process runs the same program on its own devices; `jax.distributed` connects them. On TPU pods and under SLURM and
Open MPI it detects the number of processes and the rank; elsewhere these variables are required:

    JAX_COORDINATOR_ADDRESS   host:port of process 0, with any free port there
    JAX_NUM_PROCESSES         number of processes
    JAX_PROCESS_ID            index of this process, from 0

Only process 0 prints, logs and writes files; every process reads its share of the data and writes its share of
checkpoints.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from xception_jax.errors import UserError
from xception_jax.parallel import ending
from xception_jax.parallel.processes import primary

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Variables in which launchers give the number of processes: ours, SLURM's srun and Open MPI's mpirun.
COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# A process that is silent for this long (its machine is gone, say) is considered dead, and all others stop.
HEARTBEAT_SECONDS = 60
# How long a process that has finished waits for the others to finish; then they are stopped.
SHUTDOWN_SECONDS = 60
# Prefixes of JAX errors that are not caused by another process.
OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "FAILED_PRECONDITION")


def initialize(several: bool | None = None) -> None:
    """Joins the other processes. Call it before anything uses a device; with a single process it does nothing.

    Args:
      several: whether there are other processes; None: decide by the launcher's environment variables. (TPU pods set
        none.)

    Raises:
      UserError: the variables are incomplete, or none are set and JAX does not recognise the cluster.
    """
    if several is None:
        several = any(_number(name, default=1) > 1 for name in COUNTS)
    if not several:
        return
    address, count, index = (os.environ.get(name) for name in VARIABLES)
    if any((count, index)) and not all((address, count, index)):
        missing = [name for name in VARIABLES if not os.environ.get(name)]
        raise UserError(f"several processes need all of {', '.join(VARIABLES)}; set {', '.join(missing)}, too")
    try:
        jax.distributed.initialize(
            address,
            _number(VARIABLES[1]) if count else None,
            _number(VARIABLES[2]) if index else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as e:  # JAX's own message is "coordinator_address should be defined" or the like
        raise UserError(f"cannot find the other processes ({e}); set {', '.join(VARIABLES)}") from None
    ending.watch()
    if not primary():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _number(name: str, default: int = 0) -> int:
    """An environment variable's value."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f'{name} is "{text}"; it must be a number')
    return int(text)


def check_joined() -> None:
    """Raises UserError if the devices belong to several processes that have not joined, as on a TPU pod."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise UserError(f"this is one of {jax.process_count()} processes; start all of them with --distributed")


@contextlib.contextmanager
def stopping_together() -> Iterator[None]:
    """Ends all processes with the same code if the `with` block fails in one of them, or exits with a code but 0.

    Most reasons are announced to the others. The death of another process is not: it shows up as a failed collective
    operation in each, and a normal exit would wait for the dead one.
    """
    try:
        yield
        if jax.distributed.is_initialized():
            ending.finish(SHUTDOWN_SECONDS)
    except SystemExit as e:
        if jax.distributed.is_initialized() and isinstance(e.code, int) and e.code:
            ending.leave(ending.announce(e.code, str(e.__context__ or "") or "see its output"), told=False)
        raise
    except Exception as e:
        if not jax.distributed.is_initialized():
            raise
        if end := ending.announced():  # who found it may have gone by now
            ending.leave(end)
        traceback.print_exc()
        if not isinstance(e, jax.errors.JaxRuntimeError) or str(e).startswith(OWN_FAULTS):
            ending.leave(ending.announce(1, f"{type(e).__name__}: {e}"), told=False)
        print(
            "error: stopping this process, because another one has probably died (see its output); run the same "
            "command to resume from the last checkpoint",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(os.EX_TEMPFAIL)
