"""A network as structure and arrays, the form used everywhere outside the network's own code."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from xception_jax.errors import UserError

Tree = dict[str, Any]  # nested; leaves are arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    """A network's parameters and batch statistics."""

    params: Tree
    batch_stats: Tree


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Weights]:
    """Splits a network into its static structure and its arrays.

    Raises:
      UserError: the network has variables other than nnx.Param and nnx.BatchStat.
    """
    graphdef, params, batch_stats, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
    if others:
        names = ", ".join("/".join(map(str, path)) for path in dict(nnx.to_flat_state(others)))
        raise UserError(
            f"{type(model).__name__} has variables that are neither nnx.Param nor nnx.BatchStat: {names}. "
            "Create its dropout layers without rngs, and pass them the rngs that the network is called with"
        )
    return graphdef, Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def merge(graphdef: nnx.GraphDef, weights: Weights) -> Any:
    """The inverse of `split`."""
    return nnx.merge(graphdef, weights.params, weights.batch_stats)


def num_bytes(tree: Any) -> int:
    """Memory of a tree of arrays, or of their shapes, in bytes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def num_parameters(weights: Weights) -> int:
    """The number of trainable parameters, without batch statistics."""
    return sum(x.size for x in jax.tree.leaves(weights.params))
