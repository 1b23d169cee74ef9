"""Every test sees eight CPU devices, so that what is sharded is sharded in the tests too."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("KERAS_BACKEND", "jax")
# Most time goes to compiling programs that are run a few times.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A program's kernels in one module: as many processes as cores leave nothing to compile at the same time. And without
# MLIR on the way to LLVM, which takes half of the time to compile.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false")
# One cache for all of a suite's processes: the same program is compiled once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import hypothesis
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xception_jax.config import default

jax.config.update("jax_numpy_rank_promotion", "raise")
# The same examples in every run: a property that fails on new ones would fail somebody else's change.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

# A run of the command, of seconds, on the digits. All tests of commands, and the notebook in its small form, train like
# this on one device: what is compiled for the first is in the cache for the others.
SMALL_RUN = [
    "--config=configs/quickstart.py",
    "--config.num_steps=12",
    "--config.model.width=0.01",
    "--config.model.middle_blocks=0",
    "--config.schedule.warmup=0 steps",
]

# What version 0.1.0 left of `SMALL_RUN`, see `test_old_runs`: a run of ours where its training is not what is tested.
RECORDED_RUN = Path(__file__).parent / "fixtures" / "run_0.1.0"

# Of few tests that take long each. They begin first, so that no process is left alone with one at the end.
LONG_FILES = ("test_distributed", "test_resume", "test_predict", "test_steps", "test_faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files for pytest-xdist's `loadfile`."""
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """A module's runs are on the first device alone: what the loop does takes half of the time to compile there."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        yield


@pytest.fixture(scope="module")
def cheap_initializers() -> Iterator[None]:
    """NumPy draws the kernels that Keras' layers begin with: Keras would compile a program for each shape."""
    import keras

    rng = np.random.default_rng(0)

    def glorot_uniform(_, shape, dtype=None):
        limit = np.sqrt(6 / (np.prod(shape[:-2]) * sum(shape[-2:])))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.GlorotUniform, "__call__", glorot_uniform)
        yield


@pytest.fixture
def tiny() -> ConfigDict:
    """`tiny_run`, new for each test."""
    return tiny_run()


@pytest.fixture(scope="session")
def tiny_config() -> Callable[[], ConfigDict]:
    """`tiny_run`, for fixtures of several tests."""
    return tiny_run


def tiny_run() -> ConfigDict:
    """A run of a few seconds: an Xception of eight channels nearly everywhere, on a few synthetic pictures.

    Layers of equal shapes share what is compiled for them.
    """
    c = default()
    c.image_size = 32
    c.batch_size = 8
    c.num_steps = 6
    c.model.stem = "small"
    c.model.width = 0.01
    c.model.middle_blocks = 0
    c.model.dropout = 0.5
    c.model.bn_momentum = 0.9
    c.data.name = "synthetic"
    c.data.num_examples = 20
    c.data.num_classes = 4
    c.data.num_threads = 2
    c.log_every = "1 steps"
    c.average_decay = 0.9
    c.evaluation.every = "3 steps"
    c.checkpoint.every = "2 steps"
    return c
