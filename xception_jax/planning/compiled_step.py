"""A training step's requirements on its devices, found by compiling it for them."""

import dataclasses
import re
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from xception_jax import experiment as experiment_lib
from xception_jax.config import own_options
from xception_jax.errors import UserError
from xception_jax.planning.hlo import Instruction, Program
from xception_jax.planning.topology import Topology
from xception_jax.training.recipe import create_recipe
from xception_jax.training.summary import multiply_adds

NUM_CLASSES = 1000  # used if the config takes it from the data, which is not opened here
NUM_EXAMPLES = 1_281_167  # ImageNet's; schedules in epochs depend on it, but a step's requirements do not
UNIT = 8  # images per chip, granularity of the search for the largest batch: the rows of a TPU's tiles
LARGEST = 10  # buffers that a plan lists


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per chip. The state is donated, so its outputs reuse the memory of the arguments."""

    arguments: int
    outputs: int
    shared: int  # outputs that reuse arguments' memory
    temporary: int
    code: int

    @property
    def total(self) -> int:
        """Peak use."""
        return self.arguments + self.outputs - self.shared + self.temporary + self.code


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled training step.

    Attributes:
      batch_per_chip: images per chip.
      memory: None if the compiler found it too large.
      needed: bytes needed per chip.
      limit: bytes available per chip; None for the CPU.
      traffic: bytes per image that instructions read and write in main memory, counting each operand and result once.
      xla_traffic: the same by XLA's own count, which recognises partial reads of operands, but not on-chip memory.
      flops: per image, by XLA's count; if XLA has none (GPUs), those of convolutions and matrix products.
      estimated_cycles: per step, estimated by the TPU's compiler; some instructions have no estimate.
      collectives: kind -> (number per step, bytes per chip).
      kernels: kind -> number per step.
      largest: the instructions with the largest results.
      compile_seconds: time for tracing and compiling.
    """

    batch_per_chip: int
    memory: Memory | None
    needed: int
    limit: int | None
    traffic: float = 0.0
    xla_traffic: float | None = None
    flops: float = 0.0
    estimated_cycles: int | None = None
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    kernels: dict[str, int] = dataclasses.field(default_factory=dict)
    largest: tuple[Instruction, ...] = ()
    compile_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it fits into a chip's memory."""
        return self.memory is not None and (self.limit is None or self.needed <= self.limit)


def plan_step(config: ConfigDict, topology: Topology, batch_per_chip: int) -> Plan:
    """Compiles the training step that `training` would run on these devices.

    No data is opened and no weights are loaded, as the requirements depend on neither. The number of classes is
    `config.model.num_classes`, or 1000 if that is None.

    Raises:
      UserError: the config is invalid.
    """
    settings = _without_data(config, batch_per_chip * len(topology.devices))
    experiment = experiment_lib.create(settings, devices=topology.devices, platform=topology.platform)
    recipe = create_recipe(experiment)
    began = time.monotonic()
    traced = recipe.train_step.trace(recipe.abstract_state, recipe.abstract_batch)
    limit = int(topology.chip.memory) if topology.chip else None
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as e:
        if (sizes := needed_and_available(str(e))) is None:
            raise
        used, available = sizes
        return Plan(batch_per_chip, None, used, available, compile_seconds=time.monotonic() - began)
    seconds = time.monotonic() - began

    program, costs, a = Program(compiled.as_text()), compiled.cost_analysis() or {}, compiled.memory_analysis()
    memory = Memory(
        a.argument_size_in_bytes,
        a.output_size_in_bytes,
        a.alias_size_in_bytes,
        a.temp_size_in_bytes,
        a.generated_code_size_in_bytes,
    )
    products = 2 * multiply_adds(traced.jaxpr.jaxpr) / settings.batch_size
    return Plan(
        batch_per_chip,
        memory,
        memory.total,
        limit,
        traffic=program.traffic / batch_per_chip,
        xla_traffic=costs["bytes accessed"] / batch_per_chip if "bytes accessed" in costs else None,
        flops=costs["flops"] / batch_per_chip if "flops" in costs else products,
        estimated_cycles=program.cycles or None,
        collectives=program.collectives(),
        kernels=dict(program.kernels().most_common()),
        largest=tuple(program.largest(LARGEST)),
        compile_seconds=seconds,
    )


def largest_batch(plan: Callable[[int], Plan], start: int) -> Plan:
    """The plan with the most images per chip that fits, in multiples of `UNIT`.

    Args:
      plan: compiles for a number of images per chip.
      start: the first number to try.

    Raises:
      UserError: not even `UNIT` images fit.
    """
    start = max(start // UNIT * UNIT, UNIT)
    best, too_large, batch = None, None, start
    while True:
        tried = plan(batch)
        assert tried.limit is not None
        if tried.fits:
            # Memory grows linearly with the batch. Near the limit, a TPU's compiler rematerializes, so that the next
            # plan may need less than extrapolated.
            best, following = tried, max(batch * tried.limit // tried.needed, batch * 9 // 8)
        else:
            too_large, following = batch, batch * tried.limit // tried.needed
        low = best.batch_per_chip if best else 0
        if too_large is not None:
            if too_large - low <= UNIT:
                break
            following = (low + too_large) // 2 if best else min(following, too_large - 1)
        batch = max(following // UNIT * UNIT, low + UNIT)
    if best is None:
        raise UserError(f"not even {UNIT} images per chip fit: they need {tried.needed / 1e9:.1f} GB")
    return best


def _without_data(config: ConfigDict, batch_size: int) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.batch_size = batch_size
    with changed.unlocked():
        for option in own_options(config, "data"):
            del changed.data[option]
    changed.data.name, changed.data.num_examples = "synthetic", NUM_EXAMPLES
    changed.data.num_classes = config.model.num_classes or NUM_CLASSES
    changed.model.weights = ""
    return changed


def needed_and_available(message: str) -> tuple[int, int] | None:
    """The needed and available bytes of memory in a TPU compiler's error message; None for other errors."""
    size = r"([\d.]+)([GM])"
    for pattern in (f"Used {size} of {size} hbm", rf"temporaries \({size}\) exceeds available HBM \({size}\)"):
        if "RESOURCE_EXHAUSTED" in message and (found := re.search(pattern, message)):
            return _binary(found[1], found[2]), _binary(found[3], found[4])
    return None


def _binary(number: str, unit: str) -> int:
    return int(float(number) * {"M": 2**20, "G": 2**30}[unit])
