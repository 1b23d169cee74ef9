"""Wrappers for Pallas kernels: derivatives, `vmap`, and sharding of the batch over devices."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, PartitionSpec


def as_operator(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, a function of arrays, with the derivatives of `plain`, to any order; under `vmap`, `plain` itself."""

    @custom_vmap
    def value(*args: Any) -> Any:
        return kernel(*args)

    @value.def_vmap
    def _(size: int, batched: list, *args: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda b: 0 if b else None, batched)
        results = jax.vmap(plain, axes, axis_size=size)(*args)
        return results, jax.tree.map(lambda _: True, results)

    @jax.custom_jvp
    def operator(*args: Any) -> Any:
        return value(*args)

    @operator.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        return operator(*primals), jax.jvp(plain, primals, tangents)[1]

    return operator


def per_device(kernel: Callable[..., tuple[jax.Array, Any]], maps: tuple, shared: tuple) -> tuple[jax.Array, Any]:
    """Runs `kernel(maps, shared)`, which returns a map and sums over its pixels, on each device with its own images.

    Otherwise the compiler, to which a kernel is opaque, would gather all images.

    Args:
      maps: [B, ...], sharded over the mesh in scope.
      shared: replicated on all devices, like the sums.
    """
    axes = batch_axes()
    assert axes is not None
    if not axes:
        return kernel(maps, shared)

    def part(maps: tuple, shared: tuple) -> tuple[jax.Array, Any]:
        to_map, sums = kernel(maps, shared)
        return to_map, lax.psum(sums, axes)

    split, whole = PartitionSpec(axes), PartitionSpec()
    # Kernels do not declare the axes over which their results vary, as check_vma requires.
    return jax.shard_map(part, in_specs=(split, whole), out_specs=(split, whole), check_vma=False)(maps, shared)


def batch_axes() -> tuple[str, ...] | None:
    """The mesh axes that split a batch: those of the mesh in scope (`jax.sharding.use_abstract_mesh`).

    None if they are unknown, so that kernels cannot be used: there are several devices but no mesh, or the program
    controls the devices itself (explicit axes, or manual ones as in a `shard_map`).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return () if jax.device_count() == 1 else None
    return mesh.axis_names if all(kind == AxisType.Auto for kind in mesh.axis_types) else None


def images_per_device(batch: int) -> int:
    """The number of a batch's images per device; 0 if it is unknown or not the same on all devices."""
    axes, mesh = batch_axes(), jax.sharding.get_abstract_mesh()
    if axes is None:
        return 0
    devices = math.prod(mesh.shape[axis] for axis in axes)
    return 0 if batch % devices else batch // devices


def device_kind() -> str:
    """The kind of device that is traced for: "TPU v5 lite", "NVIDIA H200"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind
