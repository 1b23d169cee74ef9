"""The training command, `xception_jax.main`, which also writes down the examples it is given.

Each process appends to its own examples-<process>.jsonl in the work directory.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from xception_jax import main
from xception_jax.training import loop

Batches = Callable[..., Iterator[Any]]


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


if __name__ == "__main__":
    loop.train_batches = recorded(loop.train_batches)
    main.run()
