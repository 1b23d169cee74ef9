"""Plans training on devices that are not there: `python -m xception_jax.plan --config=... --topology=v5e:4x4`.

Compiles the real training step for them, and says whether it fits, the memory and the traffic it takes, and the speed
that these allow.
"""

import dataclasses
import datetime
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_flags
from rich.console import Console
from rich.table import Table

from xception_jax.cli import common
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.parallel.mesh import check_batch_size
from xception_jax.planning.compiled_step import Plan, largest_batch, plan_step
from xception_jax.planning.topology import Topology, open_topology
from xception_jax.workdir import atomic

USAGE = "usage: python -m xception_jax.plan --config=configs/xception.py --topology=v5e:4x4 (or h200:1, or cpu:8)"


def record(plan: Plan, topology: Topology, settings: dict[str, Any]) -> dict[str, Any]:
    """A plan as JSON has it, with what was planned, when and with which versions."""
    devices = len(topology.devices)
    numbers = dataclasses.asdict(plan) | {
        "largest": [{"bytes": i.size, "type": i.type, "opcode": i.opcode, "from": i.op_name} for i in plan.largest],
        "fits": plan.fits,
        "images_per_second": speeds(plan, topology),
    }
    return {
        "topology": topology.name,
        "devices": devices,
        "batch_size": plan.batch_per_chip * devices,
        **settings,
        **numbers,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": report.environment()["versions"] | topology.versions,
    }


def speeds(plan: Plan, topology: Topology) -> dict[str, float]:
    """Pictures a second that all chips can do at most, as their main memory's and their arithmetic's speed allow."""
    if topology.chip is None or plan.memory is None:
        return {}
    devices = len(topology.devices)
    return {
        "traffic": devices * topology.chip.bandwidth / plan.traffic,
        "flops": devices * topology.chip.flops / plan.flops,
    }


def show(plan: Plan, topology: Topology) -> None:
    """Prints a plan."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows(plan, topology):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    if plan.largest:
        buffers = Table("largest buffers", "type", "made by", box=None, pad_edge=False)
        for i in plan.largest:
            shapes = ", ".join(t for t in i.type.strip("()").split(", ") if "[" in t)
            buffers.add_row(size(i.size), shapes.partition("{")[0], f"{i.opcode} {i.op_name}".strip())
        console.print(buffers)


def rows(plan: Plan, topology: Topology) -> Iterator[tuple[str, str]]:
    """A plan as pairs for people."""
    devices = len(topology.devices)
    of = f" of {size(plan.limit)}" if plan.limit else ""
    yield "batch", f"{plan.batch_per_chip} a chip, {plan.batch_per_chip * devices} on {devices}"
    yield "fits", f"{'yes' if plan.fits else 'NO'}: {size(plan.needed)}{of} a chip"
    yield "compiled in", f"{plan.compile_seconds:.0f} s"
    if plan.memory is None:
        return
    m = plan.memory
    parts = {"arguments": m.arguments, "new outputs": m.outputs - m.shared, "temporary": m.temporary, "code": m.code}
    yield "memory a chip", ", ".join(f"{name} {size(n)}" for name, n in parts.items())
    xla = f" (XLA counts {size(plan.xla_traffic)})" if plan.xla_traffic else ""
    yield "memory traffic", f"{size(plan.traffic)} a picture{xla}"
    yield "arithmetic", f"{plan.flops / 1e9:.2f} GFLOP a picture"
    kernels = [f"{n} {kind}" for kind, n in list(plan.kernels.items())[:6]]
    yield "instructions", f"{sum(plan.kernels.values())} a step: {', '.join(kernels)}, ..."
    if plan.estimated_cycles:
        yield "compiler's estimate", f"{plan.estimated_cycles / 1e6:.0f} million cycles a step"
    messages = [f"{n} {kind} ({size(b)})" for kind, (n, b) in plan.collectives.items()]
    yield "collectives", ", ".join(messages) or "none"
    if bounds := speeds(plan, topology):
        bound = min(bounds, key=lambda name: bounds[name])
        each = ", ".join(f"{name} {n:,.0f}" for name, n in bounds.items())
        yield "at most", f"{bounds[bound]:,.0f} pictures a second on {devices} chips ({each})"


def size(n: float) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if n >= scale / 10:
            return f"{n / scale:.2f} {unit}"
    return f"{n / 1e3:.1f} kB"


def define_flags() -> None:
    """The command's flags."""
    config_flags.DEFINE_config_file("config", None, "The experiment's settings, a file in configs/.")
    flags.DEFINE_string("topology", None, "The devices: v5e:4x4, v5p:2x2x1, v6e:2x2, h200:8, cpu:8.")
    flags.DEFINE_integer("batch", None, "Pictures a chip. Default: config.batch_size over all chips.")
    flags.DEFINE_bool("largest_batch", False, "Find the largest batch a chip that fits.")
    flags.DEFINE_bool("reference", False, "Plan the plain network: every operator as lax and its automatic gradient.")
    flags.DEFINE_string("json", None, "A file to write the plan to.")


def main(arguments: Sequence[str]) -> int | None:
    """Plans; the exit code is 1 where the step does not fit."""
    flag = flags.FLAGS
    if arguments or flag.config is None or flag.topology is None:
        raise UserError(USAGE)
    if flag.batch is not None and flag.batch < 1:
        raise UserError(f"--batch={flag.batch}; it must be 1 or more")
    logging.set_verbosity(logging.ERROR)
    jax.config.update("jax_enable_compilation_cache", False)  # what is compiled for absent devices can't be read again
    topology = open_topology(flag.topology)
    if flag.largest_batch and topology.chip is None:
        raise UserError("the largest batch can be found for TPUs and GPUs only; a computer's memory is not known")
    devices = len(topology.devices)
    if flag.batch is None:
        check_batch_size("config.batch_size", flag.config.batch_size, 1, devices)
    batch = flag.batch or flag.config.batch_size // devices

    if flag.reference:
        flag.config.lowering = "reference"
    compile_step = functools.partial(plan_step, flag.config, topology)
    if flag.largest_batch:

        def announced(batch_per_chip: int) -> Plan:
            plan = compile_step(batch_per_chip)
            verdict = "fits" if plan.fits else "does not fit"
            print(f"{batch_per_chip} a chip: {size(plan.needed)}, {verdict}", file=sys.stderr)
            return plan

        plan = largest_batch(announced, batch)
    else:
        plan = compile_step(batch)
    print(f"{flag.config.model.name}, {flag.config.image_size} px, {flag.config.model.dtype}, on {topology.name}")
    show(plan, topology)
    if flag.json:
        settings = {
            "model": flag.config.model.name,
            "image_size": flag.config.image_size,
            "dtype": flag.config.model.dtype,
            "lowering": flag.config.lowering,
        }
        atomic.write_atomically(Path(flag.json), json.dumps(record(plan, topology, settings), indent=2) + "\n")
    return 0 if plan.fits else 1


if __name__ == "__main__":
    common.run(main, define_flags)
