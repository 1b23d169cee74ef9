"""Orbax checkpoints of a work directory: asynchronous, atomic, the last N and the best kept."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from xception_jax.errors import UserError
from xception_jax.train_state import TrainState


class Checkpoints:
    """The checkpoints under `workdir`/checkpoints, one folder a step.

    Each holds the train state and, as JSON, what is needed to know what was run: config, versions and class names.
    A save becomes visible only when it is complete, by a rename; what a killed process left half-written is removed.

    Args:
      workdir: the run's folder.
      settings: `config.checkpoint`.
      read_only: nothing is saved or tidied up: a run may be writing there.
    """

    def __init__(self, workdir: Path, settings: ConfigDict, *, read_only: bool = False):
        metric, policies = settings.best_metric, checkpoint_managers
        lowest = metric == "loss"

        def score(metrics: dict[str, float]) -> float:
            return metrics[metric]

        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(settings.keep_last),
                    policies.BestN(
                        get_metric_fn=score,
                        reverse=lowest,  # Orbax keeps the end of the sorted list
                        n=settings.keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            # Without it Orbax writes no metrics, and a resumed run would not know the best so far.
            best_fn=score,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._best_of = min if lowest else max
        self._metric = metric
        self._directory = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, state: TrainState, metrics: dict[str, float] | None, run: dict[str, Any]) -> None:
        """Begins to save; returns when the state's buffers may be donated.

        Args:
          state: to be saved.
          metrics: of the validation split at this step, or None where it was not evaluated; such a checkpoint can't
            be the best.
          run: what was run, for JSON.
        """
        # CPU arrays reach Orbax' writer without a copy, and a donated buffer is written over.
        state = jax.tree.map(jnp.copy, state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(int(state.step), args=args, metrics=metrics, force=True)

    def restore(self, step: int, abstract: TrainState, sharding: NamedSharding) -> TrainState:
        """The state saved at `step`, on the devices of `sharding`, which need not be those it was saved from.

        Args:
          abstract: shapes and dtypes that it must have.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))["state"]

    @property
    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """The step that "last", "best" or a number names.

        Raises:
          UserError: there is no such checkpoint; the message lists those there are.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f"there is no checkpoint in {self._directory}; train first, or give another --workdir")
        if which == "last":
            return steps[-1]
        if which == "best":
            scores = {step: metrics[self._metric] for step in steps if (metrics := self._manager.metrics(step))}
            if not scores:
                raise UserError(f"none of the checkpoints in {self._directory} was evaluated; --step=last is the last")
            return self._best_of(scores, key=lambda step: scores[step])
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f'no checkpoint of step "{which}" in {self._directory}; there are: {steps}, last and best')
        return int(which)

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the folder."""
        self._manager.close()
