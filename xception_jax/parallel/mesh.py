"""Sharding: batches are split over all devices; the state is replicated, or sharded by the rules here.

Devices form a mesh of two axes, "data" and "model". An array's sharding depends only on its path and shape, so that a
parameter, its average and its optimizer slots are sharded alike.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xception_jax.errors import UserError

DATA, MODEL = "data", "model"

# Arrays split over the model axis: the end of the path, and candidate axes, of which the first that divides is split.
# These are the fully connected layers: with two of 4096 units and 17,000 classes, they have 4 of 5 parameters.
MODEL_AXES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"head/(hidden/\d+|logits)/kernel", (1, 0)),
    (r"head/(hidden/\d+|logits)/bias", (0,)),
)
# With full sharding, the longest other axis that divides is split over the data axis. Arrays with fewer elements than
# this are not split: gathering them would cost more than it saves.
SMALLEST_SPLIT = 2**14


def data_mesh(devices: Sequence[jax.Device] | None = None, *, model: int = 1) -> Mesh:
    """A mesh over all devices of all processes, with `model` neighbouring devices along the model axis.

    Raises:
      UserError: `model` does not divide the number of devices.
    """
    grid = np.asarray(devices or jax.devices())  # devices of a process are neighbours
    if grid.size % model:
        divisors = ", ".join(str(n) for n in range(1, grid.size + 1) if grid.size % n == 0)
        raise UserError(f"config.mesh.model={model} does not divide {grid.size} devices; choose from: {divisors}")
    return Mesh(grid.reshape(-1, model), (DATA, MODEL))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated: the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, MODEL)))


def state_shardings(tree: Any, mesh: Mesh, *, fully_sharded: bool) -> Any:
    """The sharding of each array of a state, or of a part of it: replicated, unless the rules above split it.

    Args:
      tree: arrays or their shapes.
      mesh: the devices.
      fully_sharded: whether the state is split over the data axis.
    """

    def sharding(path: tuple, x: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, x.shape, mesh, fully_sharded=fully_sharded))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def in_use(tree: Any, mesh: Mesh) -> Any:
    """Arrays as used within a step: gathered if they are stored split over the data axis."""
    return jax.lax.with_sharding_constraint(tree, state_shardings(tree, mesh, fully_sharded=False))


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh, *, fully_sharded: bool) -> PartitionSpec:
    """How an array is split, by the rules above."""
    split: dict[int, str] = {}
    if mesh.shape[MODEL] > 1:
        axes = next((axes for pattern, axes in MODEL_AXES if re.search(f"{pattern}$", path)), ())
        split |= dict.fromkeys([axis for axis in axes if shape[axis] % mesh.shape[MODEL] == 0][:1], MODEL)
    if fully_sharded and mesh.shape[DATA] > 1 and math.prod(shape) >= SMALLEST_SPLIT:
        free = [axis for axis, size in enumerate(shape) if axis not in split and size % mesh.shape[DATA] == 0]
        split |= {max(free, key=shape.__getitem__): DATA} if free else {}
    return PartitionSpec(*(split.get(axis) for axis in range(len(shape)))) if split else PartitionSpec()


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Whole arrays on the host, gathered one after another by all processes together."""
    return jax.tree.map(lambda x: np.asarray(jax.device_put(x, replicated(mesh))), tree)


def bytes_on_each_device(tree: Any, shardings: Any) -> int:
    """Memory per device of a tree of arrays, or of their shapes, in bytes."""
    parts = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings)
    return sum(jax.tree.leaves(parts))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global batch on the devices; `batch` is this process's part. Returns before the transfer is complete."""
    return jax.make_array_from_process_local_data(batch_sharded(mesh), batch)


def check_batch_size(key: str, batch_size: int, parts: int, num_devices: int) -> None:
    """Raises UserError unless a batch divides into `parts` equal parts on each device."""
    unit = parts * num_devices
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        of = f"{num_devices} devices" + (f" x {parts} accumulation steps" if parts > 1 else "")
        raise UserError(f"{key}={batch_size} does not divide evenly over {of}; the nearest size that does is {nearest}")
