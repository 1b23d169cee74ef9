"""Compiling for accelerators that are not there, and reading what the compiler made of it."""

from xception_jax.planning.plan import Memory, Plan, largest_batch, plan_step
from xception_jax.planning.topology import Topology, open_topology

__all__ = ["Memory", "Plan", "Topology", "largest_batch", "open_topology", "plan_step"]
