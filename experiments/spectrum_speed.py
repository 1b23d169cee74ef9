"""How fast networks train that are between a regular convolution and a depthwise one, of about equal parameters:

    python -m experiments.spectrum_speed

measures the small ones of experiments/cifar10/config.py, in turns, and writes docs/records/cpu/spectrum.json on CPUs.
"""

import argparse
import contextlib
import json
from pathlib import Path

import jax

from experiments.cifar10.config import get_config
from experiments.report import DOCS, SPECTRUM
from xception_jax.benchmarking import output
from xception_jax.benchmarking.sides.protocol import LeftOut
from xception_jax.benchmarking.turns import Side, measure, ratio, spread
from xception_jax.config import model_options
from xception_jax.filesystem import atomic


def main() -> None:
    """Measures all, each in a process of its own, and writes the record."""
    parser = argparse.ArgumentParser(prog="python -m experiments.spectrum_speed", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    arguments = parser.parse_args()
    shared = {"what": "train", "model": "xception", "dtype": "float32", "lowering": "auto", "data": ""}
    tasks = {}
    for variant in SPECTRUM:
        config = get_config(variant)
        sizes = {"batch": config.batch_size, "image_size": config.image_size}
        options = {name: value for name, value in model_options(config).items() if name != "dtype"}
        tasks[variant] = {**shared, **sizes, "options": options}
    with contextlib.ExitStack() as stack:
        sides = {variant: (stack.enter_context(Side("jax_side")), task) for variant, task in tasks.items()}
        measured = measure(sides, arguments.rounds)
    if left_out := {variant: m.left_out for variant, m in measured.items() if m.left_out}:
        raise LeftOut(left_out)
    depthwise = measured[SPECTRUM[-1]]
    rows = {
        variant: {
            "images_per_second": spread([tasks[variant]["batch"] / seconds for seconds in m.seconds]),
            "of_depthwise": ratio(m, depthwise),
        }
        for variant, m in measured.items()
    }
    machine = {"device": jax.devices()[0].device_kind}
    record = output.record([rows], machine, shared, "python -m experiments.spectrum_speed")
    path = Path(DOCS) / "records" / jax.default_backend() / "spectrum.json"
    atomic.write_atomically(path, json.dumps(record, indent=2) + "\n")
    for variant, row in rows.items():
        print(variant, *(f"{name} {output.with_range(values)}" for name, values in row.items()))


if __name__ == "__main__":
    main()
