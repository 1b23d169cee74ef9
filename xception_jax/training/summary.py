"""The network as a table: output shapes, parameters, multiply-adds and memory, found by abstract evaluation.

Shape legend: B batch, S image side.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from xception_jax import ops
from xception_jax.experiment import Experiment
from xception_jax.models import variables
from xception_jax.models.variables import Weights, num_bytes, num_parameters
from xception_jax.parallel.mesh import bytes_on_each_device, data_mesh, state_shardings
from xception_jax.terminal import console
from xception_jax.terminal.words import outputs
from xception_jax.training.optimizers import warmup_steps
from xception_jax.training.recipe import Recipe

REST = "body"  # operations outside the network's named parts


@dataclasses.dataclass
class Layer:
    """One top-level part of a network, for a single image.

    Attributes:
      shape: of its output, without the batch axis.
      multiply_adds: of its convolutions and matrix products.
    """

    shape: tuple[int, ...] = ()
    multiply_adds: int = 0


def count_layers(experiment: Experiment) -> dict[str, Layer]:
    """Output shape and multiply-adds of each named part of the network, in order of execution."""
    side = experiment.config.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def forward(weights: Weights, x: jax.Array) -> jax.Array:
        return variables.merge(experiment.graphdef, weights)(x)

    layers: dict[str, Layer] = {REST: Layer()}
    with ops.as_reference():  # the other lowerings do the same work with other operations
        _count(jax.make_jaxpr(forward)(experiment.abstract_weights, images).jaxpr, "", 1, layers)
    if not layers[REST].multiply_adds:
        del layers[REST]
    return layers


def _count(jaxpr: core.Jaxpr, scope: str, times: int, layers: dict[str, Layer]) -> None:
    """Adds a jaxpr's operations, including those of nested jaxprs, to the layers given by their named scopes."""
    for eqn in jaxpr.eqns:
        name = scope or str(eqn.source_info.name_stack).split("/")[0] or REST
        if eqn.primitive.name == "pallas_call":  # its body covers only part of an image
            continue
        inner = times * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else times
        for value in eqn.params.values():
            if isinstance(value, core.ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, core.Jaxpr):
                _count(value, scope if name == REST else name, inner, layers)
        layer = layers.setdefault(name, Layer())
        layer.multiply_adds += times * _multiply_adds(eqn)
        shape = getattr(eqn.outvars[0].aval, "shape", ())
        if len(shape) > 1:
            layer.shape = shape[1:]


def multiply_adds(jaxpr: core.Jaxpr) -> int:
    """Multiply-adds of all convolutions and matrix products of a jaxpr and its nested jaxprs, except in kernels."""
    total: dict[str, Layer] = {}
    _count(jaxpr, "all", 1, total)
    return total["all"].multiply_adds


def _multiply_adds(eqn: Any) -> int:
    """Multiply-adds of a convolution or matrix product; 0 for any other operation."""
    out = eqn.outvars[0].aval
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        return out.size * math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return out.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    return 0


def saved_bytes(experiment: Experiment) -> int:
    """Bytes per device that the forward pass saves for the backward pass: most of the memory that training takes.

    The compiler may save less by rematerializing; it also needs memory for temporaries.
    """
    config = experiment.config
    size = config.batch_size // config.optimizer.accumulate_steps // experiment.mesh.size
    images = jax.ShapeDtypeStruct((size, config.image_size, config.image_size, 3), jnp.uint8)
    labels = experiment.labels(size)

    def residuals(weights: Weights, x: jax.Array, y: jax.Array) -> Any:
        def loss(params: dict) -> jax.Array:
            model = variables.merge(experiment.graphdef, Weights(params, weights.batch_stats))
            outputs = model(experiment.input.normalization(x), train=True, rngs=nnx.Rngs(dropout=0))
            return jnp.stack([experiment.training_loss(o, y).mean() for o in jax.tree.leaves(outputs)]).sum()

        return jax.vjp(loss, weights.params)[1]

    params = experiment.abstract_weights.params
    one_device = data_mesh([experiment.mesh.devices.flat[0]])
    with ops.use(experiment.lowering), jax.sharding.use_abstract_mesh(one_device.abstract_mesh):
        kept = num_bytes(jax.eval_shape(residuals, experiment.abstract_weights, images, labels)) - num_bytes(params)
    # Arrays split over the data axis are gathered for the duration of a step.
    stored = experiment.weights_shardings.params
    used = state_shardings(params, experiment.mesh, fully_sharded=False)
    copies = jax.tree.map(lambda x, a, b: 0 if a == b else bytes_on_each_device(x, b), params, stored, used)
    return max(0, kept + sum(jax.tree.leaves(copies)))


def show(recipe: Recipe) -> None:
    """Prints the table of the network, and the length of training."""
    experiment = recipe.experiment
    config, weights = experiment.config, experiment.abstract_weights
    layers = count_layers(experiment)
    scores = outputs(experiment.num_classes, experiment.task.scores)
    title = f"{config.model.name}, {config.image_size} px, {scores}"
    table = console.table("part", "output", "parameters", "multiply-adds", title=title)
    unnamed = {name: part for name, part in weights.params.items() if name not in layers}
    for name, layer in layers.items():
        parameters = sum(x.size for x in jax.tree.leaves(unnamed if name == REST else weights.params.get(name, {})))
        shape = " x ".join(map(str, layer.shape))
        table.add_row(name, shape, f"{parameters:,}", f"{layer.multiply_adds / 1e6:,.1f} M")
    total = sum(layer.multiply_adds for layer in layers.values())
    table.add_section()
    table.add_row("all", "", f"{num_parameters(weights):,}", f"{total / 1e9:,.2f} G")
    console.console().print(table)
    print(
        f"{recipe.total_steps:,} steps of {config.batch_size} images "
        f"({recipe.steps_per_epoch:,.1f} per epoch) on {_devices(experiment)}"
    )
    asked = round(recipe.in_steps("schedule.warmup"))
    if (warmup := warmup_steps(asked, recipe.total_steps)) != asked:
        print(f"the warm-up of {config.schedule.warmup} would be all of the training; it takes {warmup} steps")


def show_memory(recipe: Recipe, train_step: jax.stages.Compiled | None = None) -> None:
    """Prints the memory per device: exactly for a compiled step, otherwise what the forward pass saves."""
    state = bytes_on_each_device(recipe.abstract_state, recipe.state_shardings)
    planned = train_step.memory_analysis() if train_step else None
    if planned:
        needed = f"{console.size(planned.temp_size_in_bytes)} while a step runs"
    else:
        needed = f"about {console.size(saved_bytes(recipe.experiment))} saved for the backward pass"
    print(f"memory on each device: {console.size(state)} state, {needed}")


def _devices(experiment: Experiment) -> str:
    devices = experiment.mesh.devices.flat
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
