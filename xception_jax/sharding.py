"""Which device holds what: batches are split over the devices, the state is on all of them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xception_jax.errors import UserError


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "data", over all devices of all processes."""
    return Mesh(np.asarray(devices or jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The global batch of which this process holds the part `batch`, on the devices; returns before it is there."""
    return jax.make_array_from_process_local_data(batch_sharded(mesh), batch)


def check_batch_size(key: str, batch_size: int, parts: int, num_devices: int) -> None:
    """Raises UserError where a batch does not divide into `parts` equal parts for each device."""
    unit = parts * num_devices
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        of = f"{num_devices} devices" + (f" x {parts} accumulation steps" if parts > 1 else "")
        raise UserError(f"{key}={batch_size} does not divide over {of}; the nearest that does is {nearest}")
