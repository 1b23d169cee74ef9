"""Memory that XLA frees on the CPU stays with the process, for the next step to take.

XLA allocates all of a step's intermediate arrays anew for every step, gigabytes at once. glibc takes so much from the
kernel and gives it back each time, and the kernel clears each page again as it is first touched: a quarter of the time
of a step.
"""

import contextlib
import ctypes
import importlib.util
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

ACCELERATOR_PLUGINS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")


def keep_freed_memory() -> None:
    """Makes glibc keep what is freed, where JAX computes on the CPU; elsewhere, and without glibc, does nothing.

    The process stays as large as it was at its largest. To be called before JAX starts its threads.
    """
    if any(importlib.util.find_spec(plugin) for plugin in ACCELERATOR_PLUGINS) or sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_ARENA_MAX, 1)  # Only the first arena can be larger than 64 MB without a mapping of its own.
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
