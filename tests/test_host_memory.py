"""What XLA frees stays with the process: steps after the first touch few new pages."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from xception_jax.host_memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
import jax, jax.numpy as jnp

@jax.jit
def step(x):  # the first product, 64 MB, is kept in memory
    return (x @ x[:16]) @ x[16:32]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for i in range(8):
    if i == 4:
        before = faults()
    x = step(jnp.ones((1 << 20, 16))).block_until_ready()
print(faults() - before)
"""


def faults(keep):
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set")
def test_steps_touch_few_new_pages():
    assert faults(keep=True) < faults(keep=False) / 2
