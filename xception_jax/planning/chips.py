"""Accelerators that a step can be planned for, with their vendors' specifications."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      platform: "tpu" or "gpu".
      flops: dense bfloat16 operations per second, with float32 accumulation.
      bandwidth: of main memory, in bytes per second.
      memory: size of main memory, in bytes.
      slices: TPUs: the available slice shapes.
      slice_type: TPUs: Google Cloud's name of a slice of n chips, with `n` or `cores` as placeholder.
    """

    platform: Literal["tpu", "gpu"]
    flops: float
    bandwidth: float
    memory: float
    slices: tuple[str, ...] = ()
    slice_type: str = ""


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

# TPUs: https://cloud.google.com/tpu/docs/v4, and /v5e, /v5p, /v6e. GPUs: NVIDIA's data sheet of the H200
# (SXM), which lists operations per second with sparsity; dense is half of that.
CHIPS = {
    "v4": Chip("tpu", 275e12, 1228e9, 32 * 2**30, CUBIC, "v4-{cores}"),
    "v5e": Chip("tpu", 197e12, 819e9, 16 * 2**30, FLAT, "v5litepod-{n}"),
    "v5p": Chip("tpu", 459e12, 2765e9, 95 * 2**30, CUBIC, "v5p-{cores}"),
    "v6e": Chip("tpu", 918e12, 1640e9, 32 * 2**30, FLAT, "v6e-{n}"),
    "h200": Chip("gpu", 989e12, 4800e9, 141e9),
}
