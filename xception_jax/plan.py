"""Plans training on devices that are not there: `python -m xception_jax.plan --config=... --topology=v5e:4x4`.

Compiles the real training step for them, and says whether it fits, the memory and the traffic it takes, and the speed
that these allow.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from xception_jax.cli import called, common
from xception_jax.errors import UserError

USAGE = "--config=configs/xception.py --topology=v5e:4x4 (or h200:1, or cpu:8)"


def define_flags() -> None:
    """The command's flags."""
    common.define_config("The experiment's settings, a file in configs/.")
    flags.DEFINE_string("topology", None, "The devices: v5e:4x4, v5p:2x2x1, v6e:2x2, h200:8, cpu:8.")
    flags.DEFINE_integer("batch", None, "Images per chip. Default: config.batch_size over all chips.")
    flags.DEFINE_bool("largest_batch", False, "Find the largest batch per chip that fits.")
    flags.DEFINE_bool("reference", False, "Plan the plain network: every operator as lax and its automatic gradient.")
    common.define_path("json", None, "A file to write the plan to.")


def main(arguments: Sequence[str]) -> int | None:
    """Plans; the exit code is 1 if the step does not fit."""
    flag = flags.FLAGS
    if arguments or flag.config is None or flag.topology is None:
        raise called.wrong_usage("plan", USAGE)
    if flag.batch is not None and flag.batch < 1:
        raise UserError(f"--batch={flag.batch}; it must be 1 or more")
    import jax

    from xception_jax.cli.plans import show
    from xception_jax.filesystem import atomic
    from xception_jax.parallel.mesh import check_batch_size
    from xception_jax.planning.compiled_step import Plan, largest_batch, plan_step
    from xception_jax.planning.record import record
    from xception_jax.planning.topology import open_topology
    from xception_jax.terminal.console import size

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
            print(f"{batch_per_chip} per chip: {size(plan.needed)}, {verdict}", file=sys.stderr)
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
