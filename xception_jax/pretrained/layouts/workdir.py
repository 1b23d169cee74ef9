"""Weights out of a work directory of ours."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from xception_jax import config as config_lib
from xception_jax.models.input_spec import input_spec
from xception_jax.pretrained.pretrained import Pretrained
from xception_jax.training.state import Weights
from xception_jax.workdir.checkpoints import Checkpoints


def read_workdir(path: Path, source: str, which: str = "last") -> Pretrained:
    """The weights that a run evaluates: the averaged ones where it has them and its config asks for them.

    Args:
      path: the run's folder.
      source: what people call it.
      which: "last", "best", or a step.
    """
    config = config_lib.read(path / "config.json")
    checkpoints = Checkpoints(path, config.checkpoint, read_only=True)
    step = checkpoints.find(which)
    checkpoints.close()
    folder = path.absolute() / "checkpoints" / str(step)
    class_names = json.loads((folder / "run" / "metadata").read_text())["class_names"]
    return Pretrained(
        f"{source} (step {step})",
        config.model.name,
        config_lib.model_options(config),
        len(class_names),
        read_weights(folder / "state", averaged=config.evaluation.averaged),
        input_spec(config),
        tuple(class_names),
    )


def read_weights(state: Path, *, averaged: bool) -> Weights:
    """One of the two sets of weights in a checkpoint's state, on the host, whatever devices it was saved from."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(state).item_metadata.tree
        part = "averaged" if averaged and saved.get("averaged") else "weights"
        wanted = {part: saved[part]}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        restored = _with_indices(checkpointer.restore(state, args=args)[part])
    return Weights(restored["params"], restored["batch_stats"])


def _with_indices(tree: Any) -> Any:
    """A tree in which the numbers of a list's members are numbers: Orbax writes them as texts."""
    if not isinstance(tree, dict):
        return tree
    return {int(key) if key.isdecimal() else key: _with_indices(value) for key, value in tree.items()}
