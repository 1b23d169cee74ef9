"""What a training step needs of the devices it would run on, found by compiling it for them."""

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

NUM_CLASSES = 1000  # where the config leaves them to its data, which nobody opens here
NUM_EXAMPLES = 1_281_167  # ImageNet's; schedules in epochs depend on it, what the step needs does not
UNIT = 8  # pictures a chip, between which the largest batch is looked for: the rows of a TPU's tiles
LARGEST = 10  # buffers that a plan lists


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip. The state is donated: its outputs take its arguments' place."""

    arguments: int
    outputs: int
    shared: int  # outputs in arguments' place
    temporary: int
    code: int

    @property
    def total(self) -> int:
        """At most, at once."""
        return self.arguments + self.outputs - self.shared + self.temporary + self.code


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled training step.

    Attributes:
      batch_per_chip: pictures.
      memory: None where the compiler found it too large.
      needed: bytes on each chip.
      limit: bytes that each has, None for the CPU.
      traffic: bytes a picture that instructions read and write in main memory, each operand and result once.
      xla_traffic: the same by XLA's own count, which knows when an operand is read in part, but not on-chip memory.
      flops: a picture, by XLA's count; of convolutions and matrix products only where XLA has none (GPUs).
      estimated_cycles: a step, as the TPU's compiler estimates it; some instructions have no estimate.
      collectives: kind -> (how many a step, bytes on each chip).
      kernels: kind -> how many a step.
      largest: the instructions with the largest results.
      compile_seconds: tracing and compiling.
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
        """Whether a chip's memory holds it."""
        return self.memory is not None and (self.limit is None or self.needed <= self.limit)


def plan_step(config: ConfigDict, topology: Topology, batch_per_chip: int) -> Plan:
    """Compiles the training step that `training` would run on these devices.

    No data is opened and no weights are loaded: what the step needs depends on neither. The logits have
    `config.model.num_classes`, 1000 where that is None.

    Raises:
      UserError: a mistake in the config.
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
    """The plan with the most pictures a chip that fits, to a multiple of `UNIT`.

    Args:
      plan: compiles for so many pictures a chip.
      start: what to try first.

    Raises:
      UserError: not even `UNIT` pictures fit.
    """
    start = max(start // UNIT * UNIT, UNIT)
    best, too_large, batch = None, None, start
    while True:
        tried = plan(batch)
        assert tried.limit is not None
        if tried.fits:
            # Memory grows linearly with the batch; where it would not fit, a TPU's compiler computes some of it again,
            # so that the next one may be above that line.
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
        raise UserError(f"not even {UNIT} pictures a chip fit: they need {tried.needed / 1e9:.1f} GB")
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
    """The bytes of memory that a TPU's compiler says it needed and had; None where the error is another."""
    size = r"([\d.]+)([GM])"
    for pattern in (f"Used {size} of {size} hbm", rf"temporaries \({size}\) exceeds available HBM \({size}\)"):
        if "RESOURCE_EXHAUSTED" in message and (found := re.search(pattern, message)):
            return _binary(found[1], found[2]), _binary(found[3], found[4])
    return None


def _binary(number: str, unit: str) -> int:
    return int(float(number) * {"M": 2**20, "G": 2**30}[unit])
