"""Plans for people."""

from collections.abc import Iterator

from xception_jax.planning.compiled_step import Plan
from xception_jax.planning.record import speeds
from xception_jax.planning.topology import Topology
from xception_jax.terminal.console import console, plain_table, size


def show(plan: Plan, topology: Topology) -> None:
    """Prints a plan."""
    table = plain_table()
    for row in rows(plan, topology):
        table.add_row(*row)
    console().print(table)
    if plan.largest:
        buffers = plain_table("largest buffers", "type", "made by")
        for i in plan.largest:
            shapes = ", ".join(t for t in i.type.strip("()").split(", ") if "[" in t)
            buffers.add_row(size(i.size), shapes.partition("{")[0], f"{i.opcode} {i.op_name}".strip())
        console().print(buffers)


def rows(plan: Plan, topology: Topology) -> Iterator[tuple[str, str]]:
    """A plan as pairs for people."""
    devices = len(topology.devices)
    of = f" of {size(plan.limit)}" if plan.limit else ""
    yield "batch", f"{plan.batch_per_chip} per chip, {plan.batch_per_chip * devices} on {devices}"
    yield "fits", f"{'yes' if plan.fits else 'NO'}: {size(plan.needed)}{of} per chip"
    yield "compiled in", f"{plan.compile_seconds:.0f} s"
    if plan.memory is None:
        return
    m = plan.memory
    parts = {"arguments": m.arguments, "new outputs": m.outputs - m.shared, "temporary": m.temporary, "code": m.code}
    yield "memory per chip", ", ".join(f"{name} {size(n)}" for name, n in parts.items())
    xla = f" (XLA counts {size(plan.xla_traffic)})" if plan.xla_traffic else ""
    yield "memory traffic", f"{size(plan.traffic)} per image{xla}"
    yield "arithmetic", f"{plan.flops / 1e9:.2f} GFLOP per image"
    kernels = [f"{n} {kind}" for kind, n in list(plan.kernels.items())[:6]]
    yield "instructions", f"{sum(plan.kernels.values())} a step: {', '.join(kernels)}, ..."
    if plan.estimated_cycles:
        yield "compiler's estimate", f"{plan.estimated_cycles / 1e6:.0f} million cycles a step"
    messages = [f"{n} {kind} ({size(b)})" for kind, (n, b) in plan.collectives.items()]
    yield "collectives", ", ".join(messages) or "none"
    if bounds := speeds(plan, topology):
        bound = min(bounds, key=lambda name: bounds[name])
        each = ", ".join(f"{name} {n:,.0f}" for name, n in bounds.items())
        yield "at most", f"{bounds[bound]:,.0f} images per second on {devices} chips ({each})"
