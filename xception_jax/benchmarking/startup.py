"""How long a user waits: for the package, for help, and for the first step of training, compiled and kept compiled."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xception_jax.benchmarking.turns import PACKAGE, spread

Row = dict[str, Any]
MAIN = (sys.executable, "-m", "xception_jax.main")

# The training command on made-up pictures. What it prints of its first step ends the wait.
CONFIG = """
from xception_jax.config import default


def get_config():
    c = default()
    c.model.name = {model!r}
    c.model.dtype = {dtype!r}
    c.model.update({options!r})
    c.batch_size = {batch}
    c.image_size = {image_size}
    c.num_steps = 1
    c.log_every = "1 steps"
    c.data.name = "synthetic"
    c.data.num_examples = {batch}
    return c
"""
FIRST_STEP = "step 1/1 "


def measure(task: Mapping[str, Any], rounds: int) -> list[Row]:
    """A row each of the package's import, of --help, and of the first step: with nothing kept, and started again."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "benchmark_config.py")
        config.write_text(CONFIG.format(**task))
        python = (sys.executable, "-c", "import xception_jax")
        rows = {
            "import xception_jax": [_seconds(python) for _ in range(rounds)],
            "--help": [_seconds((*MAIN, "--help")) for _ in range(rounds)],
        }
        compiled = str(Path(folder, "compiled"))
        for i, start in enumerate(("first step, nothing compiled", *["first step, compiled before"] * rounds)):
            command = (*MAIN, f"--config={config}", f"--workdir={folder}/run{i}")
            rows.setdefault(start, []).append(_seconds(command, FIRST_STEP, compiled))
    return [
        {"what": "startup", "name": name, "sides": {"ours": {"ms": spread([1000 * s for s in seconds])}}, "ratio": {}}
        for name, seconds in rows.items()
    ]


def _seconds(command: tuple[str, ...], until: str = "", compiled: str = "") -> float:
    """From the start of a command to the line in which it says `until`, or to its end.

    Args:
      compiled: where compiled programs are kept; "": nowhere.

    Raises:
      RuntimeError: it does not say that.
    """
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    began, line = time.perf_counter(), ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until and until in line:
                seconds = time.perf_counter() - began
                process.kill()  # what comes after is not waited for
                return seconds
    if until:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}, saying: {line.strip()}")
    return time.perf_counter() - began
