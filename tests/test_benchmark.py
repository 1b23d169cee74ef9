"""What the benchmark claims to measure, and that it measures it in turns."""

import functools
import json
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xception_jax import ops
from xception_jax.benchmarking import lowerings, startup, subjects
from xception_jax.benchmarking.sides import jax_side, operators
from xception_jax.benchmarking.sides.protocol import BATCHES
from xception_jax.benchmarking.turns import measure
from xception_jax.config import default
from xception_jax.ops import reference
from xception_jax.training.durations import in_steps
from xception_jax.training.optimizers import create_optimizer, create_schedule

# What is not there where only jax, flax and optax are.
MISSING = (
    "array_record", "cv2", "grain", "h5py", "huggingface_hub", "matplotlib", "ml_collections", "scipy.stats", "sklearn",
    "tensorflow", "tensorflow_datasets",
)  # fmt: skip
TASK = {"model": "xception", "batch": 8, "image_size": 299, "dtype": "float32", "options": {}}


def test_nothing_but_jax_flax_and_optax_is_needed():
    program = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {MISSING!r}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Blocked())
import xception_jax.benchmark, xception_jax.models, xception_jax.ops, xception_jax.training.step
import xception_jax.benchmarking.sides.jax_side
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Clock:
    """A side that knows when it was asked."""

    def __init__(self, name, log, seconds=(), left_out=None):
        self._name, self._log, self._seconds, self._left_out = name, log, iter(seconds), left_out

    def ask(self, message):
        self._log.append((message["do"], self._name))
        if self._left_out:
            return {"left_out": self._left_out}
        answers = {
            "prepare": {"facts": {"flops": 7}},
            "warm_up": {"repeats": 3},
            "finish": {"memory": {"bytes": 5, "kind": "device"}, "facts": {}},
        }
        return answers.get(message["do"]) or {"seconds": next(self._seconds)}


def test_sides_take_turns():
    log = []
    sides = {
        "ours": (Clock("ours", log, [1.0, 2.0]), {}),
        "absent": (Clock("absent", log, left_out="it is not here"), {}),
        "peer": (Clock("peer", log, [3.0, 3.0]), {}),
    }
    measured = measure(sides, 2)
    assert sorted(log[:3]) == [("prepare", "absent"), ("prepare", "ours"), ("prepare", "peer")]  # at the same time
    assert log[3:] == [
        ("warm_up", "ours"), ("warm_up", "peer"),
        ("turn", "ours"), ("turn", "peer"), ("turn", "ours"), ("turn", "peer"),
        ("finish", "ours"), ("finish", "peer"),
    ]  # fmt: skip
    assert measured["ours"].seconds == [1.0, 2.0]
    assert measured["peer"].memory == {"bytes": 5, "kind": "device"}
    assert measured["absent"].left_out == "it is not here"
    figures = subjects._figures(measured["peer"], 6, measured["ours"])
    assert figures["ratio"] == {"median": 2.25, "low": 1.5, "high": 3.0}  # 3 / 1 and 3 / 2
    assert figures["images_per_second"]["median"] == 2
    assert figures["flops"] == 7


def test_the_fastest_variant_of_a_peer_counts():
    fast, slow = ({"ratio": {"median": m, "low": m, "high": m}} for m in (0.5, 0.7))
    sides = {"ours": {}, "timm eager": slow, "timm compiled": fast, "keras": {"left_out": "no"}}
    assert subjects.best_ratios(sides) == {"timm": fast["ratio"]}


@pytest.mark.parametrize(("platform", "fused"), [("cpu", 0), ("gpu", 34), ("tpu", 34)])
def test_operators_are_those_of_the_paper(platform, fused):
    with ops.for_platform(platform):
        listed = operators.used(lambda: jax_side.split_network(TASK), TASK)
    counts = dict.fromkeys(operators.DIRECTIONS, 0)
    for operator in listed:
        counts[operator["kind"]] += operator["count"]
    # 34 separable convolutions, 2 others, 4 shortcuts, each normalized; 4 pools.
    plain = {"depthwise": 34, "pointwise": 38, "convolution": 2, "max pool": 4, "batch norm": 40}
    assert counts == {**plain, "separable": fused}
    middle = next(o for o in listed if o["name"] == "depthwise 3x3 19x19x728")
    assert middle["count"] == 26  # 8 blocks of 3, and two in block 13
    assert tuple(middle["shape"]) == (8, 19, 19, 728)


def test_costs_of_an_operator():
    pointwise = operators.Operator("pointwise", (2, 5, 5, 8), 16, strides=(2, 2))
    outputs, inputs, kernel = 2 * 3 * 3 * 16, 2 * 5 * 5 * 8, 8 * 16
    for direction, touched in (
        ("forward", inputs + kernel + outputs),
        ("input gradient", kernel + outputs + inputs),
        ("kernel gradient", inputs + outputs + kernel),
    ):
        costs = operators.costs(pointwise, direction, "bfloat16")
        assert costs == {"flops": 2 * 8 * outputs, "bytes": 2 * touched}


def test_a_fused_operator_is_what_it_is_made_of():
    """Its result by the parts, and its arithmetic: nine products a pixel and channel, then those of the channels."""
    operator = operators.Operator("separable", (2, 5, 4, 6), 8, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 6)
    with ops.for_platform("gpu"):
        function, (x, parameters, cotangent) = operators.program(operator, "forward and gradient", "float32")
        (y, _, variance), gradients = function(x, parameters, cotangent)
    settings = reference.Settings(relu=True, dilation=1)
    expected, _ = reference.convolve(x, reference.Parameters(*parameters), settings)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(variance, expected.var((0, 1, 2)), rtol=1e-4)
    assert [g.shape for g in jax.tree.leaves(gradients)] == [a.shape for a in (x, *parameters)]
    assert operators.costs(operator, "forward", "float32")["flops"] == 2 * 40 * 6 * (9 + 8)


def test_optimizer_is_the_default_one():
    params = {"layer": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)}}
    grads = jax.tree.map(lambda x: x + 0.5, params)
    config = default()
    to_steps = functools.partial(in_steps, batch_size=32, num_examples=1_281_167)
    schedule = create_schedule(config, total_steps=10**6, in_steps=to_steps)
    updates = []
    for optimizer in (jax_side.paper_optimizer()[0], create_optimizer(config.optimizer, schedule)):
        state = optimizer.init(params)
        for _ in range(3):
            update, state = optimizer.update(grads, state, params)
        updates.append(update)
    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_table_of_lowerings(tmp_path):
    """A step's time: each use of an operator, its gradients, and nothing twice."""

    def row(kind, direction, count, ours, reference):
        sides = {name: {"ms": {"median": ms}} if ms else {"left_out": "no"} for name, ms in
                 (("ours", ours), ("reference", reference))}  # fmt: skip
        return {"what": "operators", "kind": kind, "direction": direction, "count": count, "sides": sides}

    rows = [
        row("depthwise", "forward", 26, 1.0, 2.0),
        row("depthwise", "kernel gradient", 26, 0.5, 10.0),
        row("depthwise", "forward", 2, 10.0, None),
        row("max pool", "forward", 1, 3.0, 4.0),
        row("max pool", "forward and gradient", 1, 5.0, 7.0),
    ]
    path, about = tmp_path / "table.json", {"date": "today", "command": "", "versions": {}}
    record = about | {"settings": {"model": "xception"}, "hardware": {"platform": "cpu"}, "results": rows}
    lowerings.update(path, record)
    lowerings.update(path, record | {"settings": {"model": "inception_v3"}, "results": rows[3:]})
    table = json.loads(path.read_text())["cpu"]
    pool = {"fast": 5.0, "reference": 7.0}
    assert table["xception"]["milliseconds"] == {"depthwise": {"fast": 39.0, "reference": 312.0}, "max pool": pool}
    assert table["inception_v3"]["milliseconds"] == {"max pool": pool}
    assert table["xception"]["measured"]["date"] == "today"


@pytest.mark.slow
def test_small_form(tmp_path):
    """The command itself, on a narrow network, with a made-up peer's interpreter."""
    output = tmp_path / "results.json"
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.full((40, 50, 3), 60 * i, np.uint8))
    command = [
        sys.executable, "-m", "xception_jax.benchmark", "--options=width=0.01,middle_blocks=1,stem=small",
        "--image-size=32", "--rounds=1", f"--data={tmp_path}", "--what=input,infer,operators",
        "--only=max pool 3x3/2 4x4",
        "--against=timm,reference", "--peer-python=/bin/false", f"--json={output}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(output.read_text())
    plain, modern, infer, *pools = record["results"]
    for pictures in (plain, modern):
        speed, time = (pictures["sides"]["ours"][key]["median"] for key in ("images_per_second", "ms"))
        assert speed * time / 1000 == pytest.approx(BATCHES * 8)
    assert modern["sides"].keys() == {"ours", "plain"}
    assert infer["sides"]["ours"]["images_per_second"]["median"] > 0
    assert infer["ratio"].keys() == {"reference"}
    assert "its process exited with code 1" in infer["sides"]["timm eager"]["left_out"]
    assert "left out: infer xception, timm eager" in done.stdout
    assert {(p["name"].split()[0], p["direction"]) for p in pools} == {
        ("max", "forward"), ("max", "forward and gradient"),
    }  # fmt: skip
    assert [p["count"] for p in pools] == [1, 1]
    assert record["hardware"]["num_devices"] == 8
    assert record["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--what=trane", 'unknown --what "trane"; did you mean "train"?'),
        ("--against=tim", 'unknown --against "tim"; did you mean "timm"?'),
        ("--against=x", "choose from: keras, plain, reference, tfdata, timm, timm compiled, timm eager, timm_loader\n"),
        ("--options=width", '--options has "width"; write name=value'),
        ("--image-size=0", "image_size"),
        ("--lowerings=table.json", "--lowerings needs --what=operators alone"),
        ("--model=xceptoin", 'unknown model "xceptoin"; did you mean "xception"?'),
    ],
)
def test_what_is_mistyped_ends_in_a_line(flag, message):
    done = subprocess.run(
        [sys.executable, "-m", "xception_jax.benchmark", flag], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_flops_are_those_of_the_mathematics():
    """A depthwise convolution has nine products and sums an output, whatever the lowering does."""
    x, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 1, 4))

    def convolve(x, kernel):
        return ops.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
        )

    program = jax.jit(convolve), lambda: (x, kernel)
    assert jax_side.plain_flops(lambda task, mesh: program, {}) == 4 * 4 * 4 * 9 * 2


def test_start_lasts_until_the_line():
    def command(program):
        return sys.executable, "-c", program

    lines = "print('loading'); print('step 1/1 100 %')"
    assert startup._seconds(command(f"{lines}; import signal; signal.pause()"), startup.FIRST_STEP) > 0
    with pytest.raises(RuntimeError, match="last output: loading"):
        startup._seconds(command("print('loading')"), startup.FIRST_STEP)
