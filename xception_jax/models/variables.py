"""A network as its structure and its arrays, which is how everything but the network's own code handles it."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from xception_jax.errors import UserError

Tree = dict[str, Any]  # nested; leaves are arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    """What a network computes with."""

    params: Tree
    batch_stats: Tree


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Weights]:
    """A network as its structure (static) and its arrays.

    Raises:
      UserError: it has variables of other kinds than nnx.Param and nnx.BatchStat.
    """
    graphdef, params, batch_stats, others = nnx.split(model, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
    if others:
        names = ", ".join("/".join(map(str, path)) for path in dict(nnx.to_flat_state(others)))
        raise UserError(
            f"{type(model).__name__} has variables that are neither nnx.Param nor nnx.BatchStat: {names}. "
            "Make its dropout layers without rngs, and give them those that the network is called with"
        )
    return graphdef, Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def merge(graphdef: nnx.GraphDef, weights: Weights) -> Any:
    """The network of which `split` gave the parts."""
    return nnx.merge(graphdef, weights.params, weights.batch_stats)


def num_bytes(tree: Any) -> int:
    """Memory of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def num_parameters(weights: Weights) -> int:
    """Trainable parameters; batch statistics are not among them."""
    return sum(x.size for x in jax.tree.leaves(weights.params))
