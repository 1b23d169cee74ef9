"""Transplants trained weights into a network, accounting for every array."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from xception_jax.errors import UserError, some
from xception_jax.models.variables import Weights
from xception_jax.pretrained.pretrained import Pretrained

# Parts of a network that produce its outputs: if they do not fit, they keep their initial values.
HEADS = ("head", "aux")


def transplant(pretrained: Pretrained, network: Weights) -> tuple[Weights, str]:
    """Matches trained arrays with a network's.

    Args:
      pretrained: the weights.
      network: the arrays of the network that receives them, or their shapes and dtypes.

    Returns:
      The network's arrays, with its dtypes, or None for an array that keeps its initial values, which is only allowed
      in the heads; and a line that says what was loaded and what was not.

    Raises:
      UserError: an array is missing, left over or has the wrong shape; the message names them.
    """
    ours, theirs = _flat(network), _flat(pretrained.weights)
    mis_shaped = [p for p in ours.keys() & theirs.keys() if ours[p].shape != theirs[p].shape and not _of_head(p)]
    missing = [p for p in ours.keys() - theirs.keys() if not _of_head(p)]
    left_over = [p for p in theirs.keys() - ours.keys() if not _of_head(p)]
    wrong = {"missing": missing, "unexpected": left_over, "with another shape": mis_shaped}
    if any(wrong.values()):
        details = "; ".join(f"{kind}: {_names(paths)}" for kind, paths in wrong.items() if paths)
        raise UserError(f"the weights from {pretrained.source} do not fit the network ({details})")

    def taken(path: tuple) -> np.ndarray | None:
        x = theirs.get(path)
        return x.astype(ours[path].dtype) if x is not None and x.shape == ours[path].shape else None

    arrays = {path: taken(path) for path in ours}
    fresh = [path for path, x in arrays.items() if x is None]
    report = f"loaded {len(arrays) - len(fresh)} arrays from {pretrained.source}"
    if fresh:
        replaced = f" in place of those for {pretrained.num_classes} classes" if pretrained.num_classes else ""
        report += f"; newly initialised{replaced}: {_names(fresh)}"
    tree = unflatten_dict(arrays)
    return Weights(tree["params"], tree["batch_stats"]), report


def with_classes(pretrained: Pretrained, classes: Sequence[int] | np.ndarray) -> Pretrained:
    """A network that has some of the classes alone: it chooses among them.

    Args:
      pretrained: with class names.
      classes: positions of those that are kept, in this order.
    """

    def kept(path: tuple, x: np.ndarray) -> np.ndarray:
        return x[..., classes] if path[1] in HEADS and "logits" in path else x

    tree = unflatten_dict({path: kept(path, np.asarray(x)) for path, x in _flat(pretrained.weights).items()})
    return dataclasses.replace(
        pretrained,
        num_classes=len(classes),
        class_names=tuple(pretrained.class_names[i] for i in classes),
        weights=Weights(tree["params"], tree.get("batch_stats", {})),
        conformal=None,  # it is of all classes
    )


def _flat(weights: Weights) -> dict[tuple, Any]:
    return flatten_dict({"params": weights.params, "batch_stats": weights.batch_stats})


def _of_head(path: tuple) -> bool:
    return path[1] in HEADS


def _names(paths: list[tuple]) -> str:
    return some(sorted("/".join(map(str, path[1:])) for path in paths))


def fill(network: Weights, trained: Weights) -> Weights:
    """A network's arrays, replaced by the trained ones that are not None."""
    return jax.tree.map(lambda ours, theirs: ours if theirs is None else theirs, network, trained)
