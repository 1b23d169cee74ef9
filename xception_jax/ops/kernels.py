"""What Pallas kernels need around them: derivatives, `vmap`, and on each device its own part of the batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, PartitionSpec


def as_operator(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, a function of arrays, with the derivatives of every order and, under `vmap`, the values of `plain`."""

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


def per_device(kernel: Callable[..., tuple[jax.Array, Any]], maps: tuple, others: tuple) -> tuple[jax.Array, Any]:
    """`kernel(maps, others)`, a map and sums over its pixels, on each device with its own pictures.

    To the compiler a kernel is a box that it would give all pictures to.

    Args:
      maps: [B, ...], split by the mesh that is traced for.
      others: the same on all devices, as the sums are.
    """
    axes = batch_axes()
    assert axes is not None
    if not axes:
        return kernel(maps, others)

    def part(maps: tuple, others: tuple) -> tuple[jax.Array, Any]:
        to_map, sums = kernel(maps, others)
        return to_map, lax.psum(sums, axes)

    split, whole = PartitionSpec(axes), PartitionSpec()
    # Kernels do not tell over which axes their results differ, which is what check_vma would check.
    return jax.shard_map(part, in_specs=(split, whole), out_specs=(split, whole), check_vma=False)(maps, others)


def batch_axes() -> tuple[str, ...] | None:
    """The mesh axes that split a batch: those of the mesh traced for (`jax.sharding.use_abstract_mesh`).

    None where that is not known: there are several devices and no mesh, so that no kernel may be used.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return () if jax.device_count() == 1 else None
    if AxisType.Explicit in mesh.axis_types:
        return None
    return tuple(n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto)


def pictures_a_device(batch: int) -> int:
    """How many of a batch each device has, where `batch_axes` are known."""
    mesh = jax.sharding.get_abstract_mesh()
    for axis in batch_axes() or ():
        batch //= mesh.shape[axis]
    return batch


def device_kind() -> str:
    """What is traced for, by its maker's name: "TPU v5 lite", "NVIDIA H200"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind
