"""The training command, `xception_jax.main`, with a record of its inputs: the examples and the restored state.

Each process appends to its own examples-<process>.jsonl in the work directory. A resumed run appends the hash of each
array, as it is on the devices before the first step, to restored.jsonl.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from xception_jax import main
from xception_jax.parallel.mesh import gathered
from xception_jax.parallel.processes import primary
from xception_jax.resilience.runs import hashes
from xception_jax.training import loop
from xception_jax.training.recipe import Recipe
from xception_jax.training.state import TrainState
from xception_jax.workdir.checkpoints import Checkpoints

Batches = Callable[..., Iterator[Any]]
Ready = Callable[[Recipe, Checkpoints], tuple[Callable, TrainState]]


def recorded(train_batches: Batches) -> Batches:
    """`data.train_batches` that also writes a line per batch: step (from 1), process, positions in the data set."""

    def batches(*args: Any, start_step: int, **options: Any) -> Iterator[Any]:
        process = jax.process_index()
        with Path(flags.FLAGS.workdir, f"examples-{process}.jsonl").open("a", buffering=1) as file:
            for i, batch in enumerate(train_batches(*args, start_step=start_step, **options)):
                record = {"step": start_step + i + 1, "process": process, "index": batch["index"].tolist()}
                file.write(json.dumps(record) + "\n")
                yield batch

    return batches


def with_hashes(ready: Ready) -> Ready:
    """`loop.ready` that also writes a line about a restored state: step, number of devices, SHA-256 of each array."""

    def recorded_ready(recipe: Recipe, checkpoints: Checkpoints) -> tuple[Callable, TrainState]:
        train_step, state = ready(recipe, checkpoints)
        mesh = recipe.experiment.mesh
        if int(state.step) > 0:
            arrays = hashes(gathered(state, mesh))
            record = {"step": int(state.step), "devices": mesh.size, "arrays": arrays}
            if primary():
                with Path(flags.FLAGS.workdir, "restored.jsonl").open("a") as file:
                    file.write(json.dumps(record) + "\n")
        return train_step, state

    return recorded_ready


if __name__ == "__main__":
    loop.train_batches = recorded(loop.train_batches)
    loop.ready = with_hashes(loop.ready)  # type: ignore[assignment]  # parameter names differ
    main.run()
