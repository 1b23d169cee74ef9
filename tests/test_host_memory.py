"""Steps on the CPU use the same memory again."""

import os
import subprocess
import sys

import pytest

# Each step needs 256 MB for what is between its two products.
PROGRAM = """
import resource
from xception_jax.parallel.host_memory import reuse_step_memory
if {reuse}:
    reuse_step_memory()
import jax, jax.numpy as jnp

wide = jnp.full((16, 1 << 14), 1 / (1 << 14))
step = jax.jit(lambda x: (x @ wide) @ wide.T, donate_argnums=0)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x = jnp.ones((1 << 12, 16))
for i in range(10):
    if i == 4:
        x.block_until_ready()
        before = faults()
    x = step(x)
x.block_until_ready()
print(faults() - before)
"""


def pages_touched(*, reuse: bool) -> int:
    """How many pages six steps touch that the process did not have before."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(reuse=reuse)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set")
def test_steps_use_the_last_steps_memory():
    assert pages_touched(reuse=True) < pages_touched(reuse=False) / 2
