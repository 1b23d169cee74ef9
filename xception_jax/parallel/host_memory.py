"""On the CPU, steps reuse the memory of the previous step for their intermediate arrays.

XLA allocates a step's intermediate arrays anew for every step, gigabytes at once. By default glibc gets this memory
from the kernel and returns it each time, and the kernel zeroes each page when it is first touched, which takes a third
of the step's time.
"""

import contextlib
import ctypes
import importlib.util
import sys

import jax

# from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

ACCELERATOR_PLUGINS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")


def reuse_step_memory() -> None:
    """Makes steps reuse memory if JAX computes on the CPU; does nothing otherwise.

    Freed memory stays with the process (under glibc), which stays at its peak size. Steps run synchronously in the
    thread that dispatches them: in separate threads, each of which may have its own heap, a step could allocate its
    memory before the previous one has freed its own. Dispatch stays asynchronous with several processes, where a failed
    collective operation would otherwise be raised as a ValueError. Call this before anything uses a device, and after
    `distributed.initialize`.
    """
    if any(importlib.util.find_spec(plugin) for plugin in ACCELERATOR_PLUGINS):
        return
    if not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, -1)
