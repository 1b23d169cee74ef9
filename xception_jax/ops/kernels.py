"""What Pallas kernels need around them: derivatives, `vmap`, and on each device its own part of the batch."""

import math
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


def per_device(kernel: Callable[..., tuple[jax.Array, Any]], maps: tuple, shared: tuple) -> tuple[jax.Array, Any]:
    """`kernel(maps, shared)`, a map and sums over its pixels, on each device with its own pictures.

    To the compiler a kernel is a box that it would give all pictures to.

    Args:
      maps: [B, ...], split by the mesh that is traced for.
      shared: the same on all devices, as the sums are.
    """
    axes = batch_axes()
    assert axes is not None
    if not axes:
        return kernel(maps, shared)

    def part(maps: tuple, shared: tuple) -> tuple[jax.Array, Any]:
        to_map, sums = kernel(maps, shared)
        return to_map, lax.psum(sums, axes)

    split, whole = PartitionSpec(axes), PartitionSpec()
    # Kernels do not tell over which axes their results differ, which is what check_vma would check.
    return jax.shard_map(part, in_specs=(split, whole), out_specs=(split, whole), check_vma=False)(maps, shared)


def batch_axes() -> tuple[str, ...] | None:
    """The mesh axes that split a batch: those of the mesh traced for (`jax.sharding.use_abstract_mesh`).

    None where that is not known, so that no kernel may be used: there are several devices and no mesh, or the program
    says itself what each device does (axes that are explicit, or manual as in a `shard_map`).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return () if jax.device_count() == 1 else None
    return mesh.axis_names if all(kind == AxisType.Auto for kind in mesh.axis_types) else None


def pictures_a_device(batch: int) -> int:
    """How many of a batch each device has; 0 where that is not known, or not the same for all."""
    axes, mesh = batch_axes(), jax.sharding.get_abstract_mesh()
    if axes is None:
        return 0
    devices = math.prod(mesh.shape[axis] for axis in axes)
    return 0 if batch % devices else batch // devices


def device_kind() -> str:
    """What is traced for, by its maker's name: "TPU v5 lite", "NVIDIA H200"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind
