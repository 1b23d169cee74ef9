"""Compiles what the benchmarks of run.sh run into the caches: `python compile_all.py BATCH SIZE DTYPE SIDES`.

Compiling takes most of a benchmark's time and one core for each program; measuring takes the whole GPU for itself.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xception_jax.benchmarking.turns import Side

NETWORKS = ("xception", "inception_v3")
SIDES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("torch_side", {"compiled": True}),
    ("jax_side", {"lowering": "auto"}),
    ("jax_side", {"lowering": "reference"}),
)


def prepare(program: str, task: dict[str, Any]) -> None:
    """Compiles one program in a process of its own."""
    with Side(program, sys.executable if program == "torch_side" else None) as side:
        answer = side.ask({"do": "prepare", "task": task})
    print(task["what"], task["model"], program, answer.get("left_out", "compiled"), flush=True)


def main(batch: str, image_size: str, dtype: str, sides: str) -> None:
    """Compiles everything of these sides, named with commas."""
    shared = {"batch": int(batch), "image_size": int(image_size), "dtype": dtype, "options": {}}
    tasks = [
        (program, {**shared, **own, "model": model, "what": what})
        for what in ("train", "infer")
        for program, own in SIDES
        if program in sides.split(",")
        for model in NETWORKS
    ]
    with ThreadPoolExecutor(len(tasks)) as pool:
        list(pool.map(lambda task: prepare(*task), tasks))


if __name__ == "__main__":
    main(*sys.argv[1:])
