"""How the commands end."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from xception_jax.cli.common import errors_in_one_line
from xception_jax.errors import TrainingError, UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such model"), 2, "error: no such model\n"),
        (TrainingError("the loss is NaN"), 1, "error: the loss is NaN\n"),
        (FileExistsError(17, "File exists", "/a/file"), 2, "error: /a/file cannot be used: File exists\n"),
        (KeyboardInterrupt(), 130, "error: stopped\n"),
    ],
)
def test_what_users_can_mend_ends_in_one_line(capsys, error, code, line):
    with pytest.raises(SystemExit) as end, errors_in_one_line("stopped"):
        raise error
    assert end.value.code == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda: jnp.zeros(2**44), "Out of memory allocating 70368744177664 bytes"),
        (lambda: np.empty(2**50, np.uint8), "Unable to allocate 1.00 PiB for an array with shape (1125899906842624,)"),
    ],
    ids=["device", "host"],
)
def test_too_little_memory_is_no_traceback(allocate, said, capsys):
    with pytest.raises(SystemExit) as end, errors_in_one_line():
        allocate()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: too little memory: {said}")
    assert "; take smaller batches, or " in error


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc and the address space are set")
def test_too_little_memory_for_a_later_step_is_no_traceback():
    """JAX raises another kind of error where a step in the calling thread has run before."""
    program = """
import ctypes, resource
from xception_jax.cli import common as commands
from xception_jax.parallel import host_memory
host_memory.reuse_step_memory()
import jax, jax.numpy as jnp

wide, x = jnp.ones((16, 1 << 15)), jnp.ones((1 << 13, 16))
step = jax.jit(lambda x: (x @ wide) @ wide.T).lower(x).compile()  # 1 GB is between the products
step(x).block_until_ready()
ctypes.CDLL("libc.so.6").malloc_trim(0)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (200 << 20), resource.RLIM_INFINITY))
with commands.errors_in_one_line():
    step(x).block_until_ready()
"""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("error: too little memory: Out of memory allocating ")


@pytest.mark.parametrize(
    "error", [ValueError("a fault of ours"), OSError("of no file"), RuntimeError("INTERNAL: a compiler's")]
)
def test_what_they_cannot_keeps_its_traceback(error):
    with pytest.raises(type(error), match=str(error)), errors_in_one_line():
        raise error


def test_a_reader_that_goes_away_is_no_error():
    program = (
        "from xception_jax.cli.common import errors_in_one_line\nwith errors_in_one_line():\n    print('x' * 1_000_000)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_other_libraries_remarks_are_not_shown():
    program = """
import logging
from xception_jax.cli import common as commands

def main(arguments):
    for level in (logging.INFO, logging.WARNING):
        logging.getLogger("jax").log(level, "a remark of level %d", level)

commands.run(main, lambda: None)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "a remark of level 30" in done.stderr
    assert "a remark of level 20" not in done.stderr
