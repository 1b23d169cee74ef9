"""A plan as JSON."""

import dataclasses
import datetime
from typing import Any

from xception_jax.planning.compiled_step import Plan
from xception_jax.planning.topology import Topology
from xception_jax.workdir import identity


def record(plan: Plan, topology: Topology, settings: dict[str, Any]) -> dict[str, Any]:
    """A plan as a dictionary for JSON, with the settings, date and versions."""
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
        "versions": identity.environment()["versions"] | topology.versions,
    }


def speeds(plan: Plan, topology: Topology) -> dict[str, float]:
    """Upper bounds on images per second over all chips, by memory bandwidth and by arithmetic."""
    if topology.chip is None or plan.memory is None:
        return {}
    devices = len(topology.devices)
    return {
        "traffic": devices * topology.chip.bandwidth / plan.traffic,
        "flops": devices * topology.chip.flops / plan.flops,
    }
