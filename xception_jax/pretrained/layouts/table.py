"""A foreign format as a table: each array's path here, its name there, and the order of its axes there.

The same table is used in both directions, so that converting there and back is exact, bit for bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from xception_jax.models.variables import Weights

Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array.

    Attributes:
      collection: the field of `Weights` that contains it.
      path: in that field, e.g. ("block2", "sepconvs", 0, "depthwise", "kernel").
      name: in the foreign format, e.g. "block1.rep.0.conv1.weight".
      axes: the transposition from the foreign array to ours; None if the layouts agree.
    """

    collection: Literal["params", "batch_stats"]
    path: Path
    name: str
    axes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """All arrays of a network.

    Attributes:
      entries: each of our arrays once, and each foreign name once.
      constants: arrays that only the foreign format has: ignored when reading, written with these values.
    """

    entries: tuple[Entry, ...]
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def to_ours(foreign: Mapping[str, np.ndarray], table: Table) -> Weights:
    """Converts the arrays of a foreign file to our weights; names that are not in the table are ignored.

    Raises:
      KeyError: the file lacks an array of the table.
    """
    flat: dict[str, dict[Path, Any]] = {"params": {}, "batch_stats": {}}
    for entry in table.entries:
        x = foreign[entry.name]
        flat[entry.collection][entry.path] = x if entry.axes is None else x.transpose(entry.axes)
    return Weights(unflatten_dict(flat["params"]), unflatten_dict(flat["batch_stats"]))


def to_foreign(weights: Weights, table: Table) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`, with contiguous arrays and the table's constants.

    Raises:
      KeyError: the weights lack an array of the table.
      ValueError: the weights have arrays that are not in the table.
    """
    flat = {"params": flatten_dict(weights.params), "batch_stats": flatten_dict(weights.batch_stats)}
    foreign = {name: np.array(x) for name, x in table.constants.items()}
    for entry in table.entries:
        x = np.asarray(flat[entry.collection].pop(entry.path))
        foreign[entry.name] = np.ascontiguousarray(x if entry.axes is None else x.transpose(np.argsort(entry.axes)))
    left = ["/".join(map(str, path)) for part in flat.values() for path in part]
    if left:
        raise ValueError(f"the format has no place for {', '.join(left)}")
    return foreign
