"""This project's side of a comparison: training, inference, compilation, operators, and the device's limits.

It needs only jax, flax and optax; no library that reads data.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from xception_jax import ops
from xception_jax.benchmarking.sides import operators
from xception_jax.benchmarking.sides.protocol import Work, serve
from xception_jax.evaluation.step import make_eval_step
from xception_jax.inputs.spec import Normalization
from xception_jax.models import build_network, variables
from xception_jax.parallel import host_memory
from xception_jax.parallel.mesh import data_mesh, put_batch, replicated
from xception_jax.planning.hlo import Program
from xception_jax.training.optimizers import is_kernel
from xception_jax.training.state import TrainState, create_state
from xception_jax.training.step import TrainSettings, make_train_step

Task = dict[str, Any]
NUM_CLASSES = 1000


def split_network(task: Task) -> tuple[nnx.GraphDef, variables.Weights]:
    """The task's network, as structure and arrays."""
    model = build_network(
        task["model"], num_classes=NUM_CLASSES, rngs=nnx.Rngs(0), dtype=task["dtype"], **task["options"]
    )
    return variables.split(model)


def paper_optimizer() -> tuple[optax.GradientTransformation, optax.Schedule, TrainSettings]:
    """The optimizer of `config.default()`: SGD with momentum, L2 decay, averaged weights (paper, section 4.3).

    Spelled out here because configs need ml_collections.
    """
    schedule = optax.exponential_decay(0.045, 2 * 1_281_167 // 32, 0.94, staircase=True)
    optimizer = optax.chain(optax.add_decayed_weights(1e-5, is_kernel), optax.sgd(schedule, 0.9, nesterov=False))
    return optimizer, schedule, TrainSettings(average_decay=0.9999)


def train_program(task: Task, mesh: Mesh | None = None) -> tuple[Any, Callable[[], tuple]]:
    """The training step, not yet traced, and a function that creates its arguments."""
    mesh = mesh or data_mesh()
    graphdef, _ = nnx.eval_shape(lambda: split_network(task))
    optimizer, schedule, settings = paper_optimizer()

    def state(weights: variables.Weights) -> TrainState:
        return create_state(weights, optimizer, averaging=True)

    def arguments() -> tuple:
        _, weights = split_network(task)
        return jax.jit(state, out_shardings=replicated(mesh))(weights), put_batch(noise_batch(task), mesh)

    return make_train_step(graphdef, optimizer, schedule, settings, mesh), arguments


def infer_program(task: Task, mesh: Mesh | None = None) -> tuple[Any, Callable[[], tuple]]:
    """The evaluation step and a function that creates its arguments."""
    mesh = mesh or data_mesh()
    graphdef, _ = nnx.eval_shape(lambda: split_network(task))

    def arguments() -> tuple:
        return jax.device_put(split_network(task)[1], replicated(mesh)), put_batch(noise_batch(task), mesh)

    return make_eval_step(graphdef, NUM_CLASSES, mesh, Normalization()), arguments


def noise_batch(task: Task) -> dict[str, np.ndarray]:
    """A batch of noise."""
    rng, size = np.random.default_rng(0), task["image_size"]
    return {
        "image": rng.integers(0, 256, (task["batch"], size, size, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, task["batch"], np.int32),
    }


def train(task: Task) -> Work:
    """Training steps on a batch that is already on the device."""
    program, make_arguments = train_program(task)
    state, batch = make_arguments()
    compiled = program.lower(state, batch).compile()
    flops = plain_flops(train_program, task)
    states, metrics = [state], [None]

    def run() -> None:
        before = metrics[0]
        states[0], metrics[0] = compiled(states[0], batch)
        jax.block_until_ready(before)  # one step ahead of the device, like the training loop

    return Work(run, lambda: jax.block_until_ready(states), figures(compiled, flops), device_memory())


def infer(task: Task) -> Work:
    """Evaluation of a batch that is already on the device."""
    program, make_arguments = infer_program(task)
    arguments = make_arguments()
    compiled = program.lower(*arguments).compile()
    flops = plain_flops(infer_program, task)
    return repeated(compiled, arguments, figures(compiled, flops))


def compilation(task: Task) -> Work:
    """Tracing, lowering and compiling the training step; the facts hold the times of the latest run."""
    jax.config.update("jax_enable_compilation_cache", False)
    _, make_arguments = train_program(task)
    arguments = jax.eval_shape(make_arguments)
    facts: dict[str, Any] = {}
    lowering = ops.current()

    def run() -> None:
        jax.clear_caches()
        times = [time.perf_counter()]
        with ops.use(lowering):
            program, _ = train_program(task)
        times.append(time.perf_counter())
        traced = program.trace(*arguments)
        times.append(time.perf_counter())
        lowered = traced.lower()
        times.append(time.perf_counter())
        lowered.compile()
        times.append(time.perf_counter())
        facts.update(zip(("build_s", "trace_s", "lower_s", "compile_s"), np.diff(times).tolist(), strict=True))

    return Work(run, facts=facts, warm_up=False)


def list_operators(task: Task) -> Work:
    """The operators the network uses; see `operators.Operator`."""
    return Work(lambda: None, facts={"operators": operators.used(lambda: split_network(task), task)})


def operator(task: Task) -> Work:
    """One operator, in one direction."""
    described = operators.Operator(**task["operator"])
    function, arguments = operators.program(described, task["direction"], task["dtype"])
    costs = operators.costs(described, task["direction"], task["dtype"])
    return repeated(jax.jit(function).lower(*arguments).compile(), arguments, costs)


def copy(task: Task) -> Work:
    """Reading and writing an array too large for any cache: each byte is moved twice."""
    size = (1 << 28) if jax.default_backend() == "cpu" else (1 << 31)
    arrays = [jnp.zeros(size // 4, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def run() -> None:
        arrays[0] = add(arrays[0])

    return Work(run, lambda: jax.block_until_ready(arrays), {"bytes": 2 * size})


def product(task: Task) -> Work:
    """A matrix product in the task's dtype, with the precision that the networks use."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a, b = (jax.random.normal(jax.random.key(i), (n, n), task["dtype"]) for i in range(2))
    return repeated(jax.jit(jnp.dot), (a, b), {"flops": 2 * n**3})


def repeated(function: Callable, arguments: tuple, facts: dict[str, Any]) -> Work:
    """A function of arrays that stay on the device, dispatched one call ahead of it."""
    outputs: list[Any] = [None]

    def run() -> None:
        before = outputs[0]
        outputs[0] = function(*arguments)
        jax.block_until_ready(before)

    return Work(run, lambda: jax.block_until_ready(outputs), facts, device_memory())


def plain_flops(make: Callable[..., tuple[Any, Callable[[], tuple]]], task: Task) -> float:
    """Operations of the computation itself, whatever the lowering: those of the plain lowering before optimization.

    Counted for the CPU: GPU backends count nothing before they have compiled.
    """
    with ops.use(ops.Lowering("reference", "cpu")):
        program, make_arguments = make(task, data_mesh(jax.devices("cpu")[:1]))
        return program.lower(*jax.eval_shape(make_arguments)).cost_analysis()["flops"]


def figures(compiled: Any, flops: float) -> dict[str, Any]:
    """A program's figures for the report: `bytes` are those that its instructions read and write."""
    return {
        "flops": flops,
        "bytes": Program(compiled.as_text()).traffic,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def device_memory() -> Callable[[], dict[str, Any]] | None:
    """A function that returns the device's peak memory; None if the device has no memory of its own."""
    device = jax.local_devices()[0]
    if not device.memory_stats():
        return None
    return lambda: {"bytes": device.memory_stats()["peak_bytes_in_use"], "kind": "device"}


def machine(task: Task) -> Work:
    """The machine this runs on. The network is built abstractly, so that mistakes are found early."""
    nnx.eval_shape(lambda: split_network(task))
    device = jax.devices()[0]
    facts = {"platform": device.platform, "device": device.device_kind, "num_devices": jax.device_count()}
    return Work(lambda: None, facts=facts)


TASKS: dict[str, Callable[[Task], Work]] = {
    "train": train,
    "infer": infer,
    "compile": compilation,
    "list_operators": list_operators,
    "operators": operator,
    "copy": copy,
    "product": product,
    "machine": machine,
}


def prepare(task: Task) -> Work:
    """Prepares the task with its lowering."""
    with ops.use(ops.Lowering(task.get("lowering", "auto"))):
        return TASKS[task["what"]](task)


if __name__ == "__main__":
    host_memory.reuse_step_memory()  # as training and prediction do
    serve(prepare)
