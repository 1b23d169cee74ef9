"""What works without the libraries that only an extra installs, and what is said where one is missing."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import RECORDED_RUN, SMALL_RUN

ROOT = Path(__file__).resolve().parent.parent
OF_EXTRAS = ("IPython", "importlib_resources", "matplotlib", "sklearn", "tensorflow_datasets")
# Runs a program as if some libraries were not installed. SciPy and ArrayRecord are, because JAX and Grain need them.
WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
COMMAND = "from xception_jax.cli import dispatch; dispatch.main()"


def run(*arguments: str, without: tuple[str, ...], program: str = COMMAND) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(libraries=without) + program, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_training_without_matplotlib_leaves_all_but_the_picture(tmp_path):
    workdir = tmp_path / "run"
    done = run("train", *SMALL_RUN, f"--workdir={workdir}", without=("matplotlib",))
    assert done.returncode == 0, done.stderr
    assert "no curves.png: drawing curves needs matplotlib, which is not installed" in done.stdout
    assert "pip install 'xception-jax[train]'" in done.stdout
    assert (workdir / "results.json").exists()
    assert not (workdir / "curves.png").exists()


def test_predictions_need_no_extra(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    done = run("predict", f"--weights={RECORDED_RUN}", str(tmp_path / "one.png"), without=OF_EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "1 images" in done.stdout


def test_networks_need_no_extra():
    program = """
import xception_jax
from flax import nnx
model = xception_jax.create_model("xception", num_classes=10, rngs=nnx.Rngs(0), width=0.01)
"""
    done = run(without=OF_EXTRAS, program=program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "without", "message"),
    [
        (
            ["--config.data.name=cifar10"],
            "tensorflow_datasets",
            'data set "cifar10" is not folder, digits or synthetic; any other needs tensorflow_datasets, which is not '
            "installed: pip install 'xception-jax[tfds]'",
        ),
        (
            [],
            "sklearn",
            "data set \"digits\" needs sklearn, which is not installed: pip install 'xception-jax[train]'",
        ),
    ],
)
def test_what_is_missing_ends_in_one_line(flags, without, message):
    done = run("check", "--config=configs/quickstart.py", *flags, without=(without,))
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
