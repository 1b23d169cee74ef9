"""On the CPU, memory that a step needs for its intermediate arrays is the last step's.

XLA allocates all of a step's intermediate arrays anew for every step, gigabytes at once. glibc takes so much from the
kernel and gives it back each time, and the kernel clears each page again as it is first touched: a third of the time
of a step.
"""

import contextlib
import ctypes
import importlib.util
import sys

import jax

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

ACCELERATOR_PLUGINS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")


def reuse_step_memory() -> None:
    """Makes steps use the same memory again, where JAX computes on the CPU; elsewhere does nothing.

    What is freed stays with the process (of glibc), which stays as large as it was at its largest. Steps run in the
    thread that starts them, which waits: in threads of their own, of which each may have a heap, a step could take
    its memory before the last one has freed it. Not so in one of several processes: there an exchange that fails would
    be raised as a ValueError. To be called before anything asks for a device, and after `distributed.initialize`.
    """
    if any(importlib.util.find_spec(plugin) for plugin in ACCELERATOR_PLUGINS):
        return
    if not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, -1)
