"""Devices to compile for: a TPU slice or NVIDIA GPUs that are not attached, or simulated CPU devices."""

import dataclasses
import math
import os
import re
from importlib import metadata, resources

import jax
from jax.experimental import topologies

from xception_jax.errors import UserError, suggest
from xception_jax.ops.lowering import Platform
from xception_jax.planning.chips import CHIPS, Chip

# Each platform's compiler: the packages that provide it, and the requirement that installs it.
COMPILERS = {
    "tpu": (("libtpu",), "jax[tpu]"),
    "gpu": (("jax-cuda12-plugin", "jax-cuda13-plugin"), "jax[cuda12]"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind.

    Attributes:
      name: as given: "v5e:4x4", "h200:1", "cpu:8".
      platform: "tpu", "gpu" or "cpu".
      chip: the chip's specifications; None for the CPU.
      devices: to compile for; only CPU devices can run programs.
      versions: of the compiler, by package name.
    """

    name: str
    platform: Platform
    chip: Chip | None
    devices: tuple[jax.Device, ...]
    versions: dict[str, str]


def open_topology(name: str) -> Topology:
    """Devices by a name such as "v5e:4x4", "h200:8" or "cpu:8".

    The compilers read their settings from the environment when they start, so call this before any computation.

    Raises:
      UserError: an unknown name, or the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    chip = CHIPS.get(kind)
    choices = [f"{k}:{s}" for k, c in CHIPS.items() for s in c.slices or ("1", "8")] + ["cpu:8"]
    if chip is None and kind != "cpu":
        raise UserError(f'unknown topology "{name}"; {suggest(name, choices)}')
    if chip and chip.slices:
        if shape not in chip.slices:
            raise UserError(f'{kind} has no slice "{shape}"; choose from: {", ".join(chip.slices)}')
    elif not re.fullmatch(r"[1-9]\d{0,3}", shape):
        raise UserError(f'topology "{name}" lacks a number of devices; write it like {kind}:8')

    # The process itself uses only the CPU, even if other devices are available.
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    if chip is None:
        jax.config.update("jax_num_cpu_devices", int(shape))
        return Topology(name, "cpu", None, tuple(jax.devices()), {})
    packages, extra = COMPILERS[chip.platform]
    versions = {name: metadata.version(name) for name in packages if _installed(name)}
    if not versions:
        raise UserError(f'planning for {kind} needs its compiler: pip install "{extra}=={jax.__version__}"')
    devices = _tpus(kind, shape, chip) if chip.platform == "tpu" else _gpus(kind, int(shape))
    return Topology(name, chip.platform, chip, devices, versions)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _tpus(kind: str, shape: str, chip: Chip) -> tuple[jax.Device, ...]:
    count = math.prod(int(n) for n in shape.split("x"))
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to query
        "TPU_ACCELERATOR_TYPE": chip.slice_type.format(n=count, cores=2 * count),
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is claimed
        "TPU_MIN_LOG_LEVEL": "3",
    }
    return tuple(topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu").devices)


def _gpus(kind: str, count: int) -> tuple[jax.Device, ...]:
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    # Without a device, kernels cannot be timed.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    target = resources.files("xception_jax.planning").joinpath(f"gpu_targets/{kind}.txtpb").read_text()
    description = topologies.get_topology_desc("", platform="cuda", topology=f"1x1x{count}", target_config=target)
    return tuple(description.devices)
