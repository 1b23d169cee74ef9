"""All that training changes, as one pytree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

Tree = dict[str, Any]  # nested; leaves are arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    """What a network computes with."""

    params: Tree
    batch_stats: Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """What one step of training takes and returns.

    Attributes:
      step: optimizer steps done.
      weights: the network's parameters and running batch statistics.
      averaged: their Polyak averages in float32, or None without averaging. The statistics are averaged like the
        parameters, so that they belong to them: to first order in the steps' differences they are the statistics of the
        averaged network.
      opt_state: the optimizer's.
    """

    step: Int[Array, ""]
    weights: Weights
    averaged: Weights | None
    opt_state: optax.OptState


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Weights]:
    """A network as its structure (static) and its arrays."""
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graphdef, Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def merge(graphdef: nnx.GraphDef, weights: Weights) -> Any:
    """The network of which `split` gave the parts."""
    return nnx.merge(graphdef, weights.params, weights.batch_stats)


def create(weights: Weights, optimizer: optax.GradientTransformation, *, averaging: bool) -> TrainState:
    """The state before the first step."""
    # The sum, not the array itself: a donated buffer may stand in the state only once.
    average = jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, weights) if averaging else None
    return TrainState(jnp.zeros((), jnp.int32), weights, average, optimizer.init(weights.params))


def average(averaged: Weights, weights: Weights, step: Int[Array, ""], decay: float) -> Weights:
    """Polyak averages one step on.

    The decay starts low, min(decay, (1 + step) / (10 + step)), so that a short run's average is not its first weights
    (as `tf.train.ExponentialMovingAverage` with `num_updates`, with which the Inception networks were trained).
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, w: a + (1 - d) * (w.astype(a.dtype) - a), averaged, weights)


def num_bytes(tree: Any) -> int:
    """Memory of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def num_parameters(weights: Weights) -> int:
    """Trainable parameters; batch statistics are not among them."""
    return sum(x.size for x in jax.tree.leaves(weights.params))
