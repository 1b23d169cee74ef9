"""Plans: of a tiny network on simulated devices, whose needs are known; of chips where their compilers are."""

import dataclasses
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import pytest

from configs.quickstart import get_config
from xception_jax import experiment
from xception_jax.errors import UserError
from xception_jax.models.variables import num_bytes, num_parameters
from xception_jax.planning.compiled_step import Plan, largest_batch, needed_and_available
from xception_jax.planning.topology import open_topology
from xception_jax.training.recipe import create_recipe
from xception_jax.training.summary import count_layers

ROOT = Path(__file__).resolve().parent.parent.parent


def installed(*distributions):
    return {d.metadata["Name"] for d in metadata.distributions()} & {*distributions}


def fake(batch, *, limit, per_picture=3, fixed=10):
    needed = fixed + per_picture * batch
    return dataclasses.replace(Plan(batch, None, needed, limit), memory=FITS if needed <= limit else None)


FITS = object()


@pytest.mark.parametrize("limit", [40, 55, 400, 1000, 5000])
@pytest.mark.parametrize("start", [3, 16, 500])
def test_largest_batch(limit, start):
    tried = []

    def plan(batch):
        tried.append(batch)
        return fake(batch, limit=limit)

    largest = largest_batch(plan, start).batch_per_chip
    assert largest == (limit - 10) // 3 // 8 * 8
    assert len(tried) == len(set(tried)) < 16


def test_largest_batch_where_nothing_fits():
    with pytest.raises(UserError, match="not even 8 images per chip fit: they need"):
        largest_batch(lambda batch: fake(batch, limit=20), 64)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 16.50G of 15.75G hbm. Exceeded by 768M", (16.5, 15.75)),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (15.80G) "
            "exceeds available HBM (15.75G).",
            (15.8, 15.75),
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 65M of 64M vmem", None),
        ("INVALID_ARGUMENT: Used 16.50G of 15.75G hbm", None),
    ],
)
def test_what_the_compiler_says_of_too_large_programs(message, expected):
    """As libtpu words it."""
    assert needed_and_available(message) == (expected and tuple(int(g * 2**30) for g in expected))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5f:2x2", 'unknown topology "v5f:2x2"; did you mean "v5e:2x2"'),
        ("v5e:3x3", 'v5e has no slice "3x3"; choose from: 1x1, 2x2'),
        ("v5e", 'v5e has no slice ""'),
        ("h200", 'topology "h200" lacks a number of devices; write it like h200:8'),
        ("cpu:0", 'topology "cpu:0" lacks a number'),
    ],
)
def test_unknown_topologies(name, message):
    with pytest.raises(UserError, match=message):
        open_topology(name)


def command(topology, *options):
    flags = ["--config=configs/quickstart.py", f"--topology={topology}", *options]
    return subprocess.run(
        [sys.executable, "-m", "xception_jax.plan", *flags],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")},
        capture_output=True,
        text=True,
        check=False,
    )


def planned(topology, *options, file):
    """What the command writes and prints."""
    result = command(topology, f"--json={file}", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(file.read_text()), result.stdout


def test_the_largest_batch_is_not_looked_for_where_memory_is_not_known():
    result = command("cpu:2", "--largest-batch")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "for TPUs and GPUs only" in result.stderr


@pytest.mark.parametrize(
    ("topology", "compilers", "package"),
    [("v5e:2x2", ["libtpu"], "jax[tpu]"), ("h200:1", ["jax-cuda12-plugin", "jax-cuda13-plugin"], "jax[cuda12]")],
)
def test_a_missing_compiler_is_named(topology, compilers, package, monkeypatch):
    if installed(*compilers):
        pytest.skip("it is installed")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(UserError) as error:
        open_topology(topology)
    assert f'pip install "{package}=={jax.__version__}"' in str(error.value)


def test_plan_of_a_network_whose_needs_are_known(tmp_path):
    """The step takes the state and a batch, sends the gradients and the statistics, and computes thrice a forward."""
    network = ("--config.model.width=0.05", "--config.model.middle_blocks=0")
    options = ("--batch=4", *network, "--config.data.name=imagenet2012")  # which nobody needs
    plan, output = planned("cpu:2", *options, "--config.model.num_classes=7", file=tmp_path / "plan.json")
    assert (plan["devices"], plan["batch_size"], plan["fits"]) == (2, 8, True)

    config = get_config()
    config.batch_size, config.model.width, config.model.middle_blocks = 8, 0.05, 0
    config.data.name, config.data.num_classes = "synthetic", 7
    run = experiment.create(config, devices=jax.devices()[:2])
    state, memory = num_bytes(create_recipe(run).abstract_state), plan["memory"]
    assert memory["arguments"] == state + 4 * (32 * 32 * 3 + 4)
    assert memory["shared"] == state  # every buffer is donated
    assert plan["needed"] > memory["arguments"] + memory["temporary"]
    messages, size = plan["collectives"]["all-reduce"]
    assert messages > 1
    assert size >= 4 * num_parameters(run.abstract_weights)
    forward = 2 * sum(layer.multiply_adds for layer in count_layers(run).values())
    assert 2 * forward < plan["flops"] < 6 * forward
    assert plan["traffic"] > state / 4
    sizes = [buffer["bytes"] for buffer in plan["largest"]]
    assert sizes == sorted(sizes, reverse=True)
    assert "largest buffers" in output


@pytest.mark.parametrize(
    ("topology", "compilers", "devices", "kernel"),
    [
        ("v5e:2x2", ["libtpu"], 4, "tpu_custom_call"),
        ("h200:1", ["jax-cuda12-plugin", "jax-cuda13-plugin"], 1, "__gpu$xla.gpu.triton"),
    ],
)
def test_plan_for_accelerators(topology, compilers, devices, kernel, tmp_path):
    if not installed(*compilers):
        pytest.skip(f"compiling for {topology} needs {' or '.join(compilers)}")
    options = "--config.model.width=1.0", "--config.model.middle_blocks=0", "--config.model.dtype=bfloat16"
    plan, output = planned(topology, "--batch=8", *options, file=tmp_path / "plan.json")
    assert plan["kernels"][kernel] >= 7
    assert (plan["devices"], plan["batch_size"], plan["fits"]) == (devices, 8 * devices, True)
    assert plan["traffic"] > 0
    assert plan["images_per_second"].keys() == {"traffic", "flops"}
    assert "at most" in output
