"""How long a user waits: for the import, for --help, and for the first training step, with and without a cache."""

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

# The training command on synthetic images. The wait ends when it prints its first step.
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
    """One row each for the import, --help, and the first step: with an empty compilation cache, and with a full one."""
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
    """The time from the start of a command until it prints a line with `until`, or until its end.

    Args:
      compiled: folder of the compilation cache; "": none.

    Raises:
      RuntimeError: the command ended without printing such a line.
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
                process.kill()  # the rest is not needed
                return seconds
    if until:
        raise RuntimeError(f"{' '.join(command)} exited with code {process.returncode}; last output: {line.strip()}")
    return time.perf_counter() - began
