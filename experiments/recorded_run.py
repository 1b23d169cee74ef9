"""The training command, `xception_jax.main`, which writes down what it is given: examples, and the state to go on from.

Each process appends to its own examples-<process>.jsonl in the work directory. A run that goes on appends to
restored.jsonl the hash of each array as it lies on the devices before the first step.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.runs import hashes
from xception_jax import main, training
from xception_jax.checkpoints import Checkpoints
from xception_jax.experiment import Experiment
from xception_jax.processes import primary
from xception_jax.sharding import gathered
from xception_jax.train_state import TrainState

Batches = Callable[..., Iterator[Any]]
Ready = Callable[[Experiment, Checkpoints], tuple[Callable, TrainState]]


def recorded(train_batches: Batches) -> Batches:
    """`data.train_batches` that writes a line for each batch: step (from 1), process, positions in the data set."""

    def batches(*args: Any, start_step: int, **options: Any) -> Iterator[Any]:
        process = jax.process_index()
        with Path(flags.FLAGS.workdir, f"examples-{process}.jsonl").open("a", buffering=1) as file:
            for i, batch in enumerate(train_batches(*args, start_step=start_step, **options)):
                record = {"step": start_step + i + 1, "process": process, "index": batch["index"].tolist()}
                file.write(json.dumps(record) + "\n")
                yield batch

    return batches


def with_hashes(ready: Ready) -> Ready:
    """`training.ready` that writes a line on a restored state: step, number of devices, SHA-256 of each array."""

    def recorded_ready(experiment: Experiment, checkpoints: Checkpoints) -> tuple[Callable, TrainState]:
        train_step, state = ready(experiment, checkpoints)
        if int(state.step) > 0:
            arrays = hashes(gathered(state, experiment.mesh))
            record = {"step": int(state.step), "devices": experiment.mesh.size, "arrays": arrays}
            if primary():
                with Path(flags.FLAGS.workdir, "restored.jsonl").open("a") as file:
                    file.write(json.dumps(record) + "\n")
        return train_step, state

    return recorded_ready


if __name__ == "__main__":
    training.train_batches = recorded(training.train_batches)
    training.ready = with_hashes(training.ready)  # type: ignore[assignment]  # of its parameters' names
    main.run()
