"""Orbax checkpoints of a work directory: asynchronous, atomic and verified; the last N and the best are kept."""

import functools
import itertools
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from xception_jax.errors import UserError
from xception_jax.models.variables import Weights
from xception_jax.parallel.processes import barrier, primary
from xception_jax.tasks.task import SINGLE_LABEL, lowest_is_best
from xception_jax.workdir import checksums

State = Any  # a pytree of arrays that has a `step`, and the networks' `weights` and `averaged` (or None)

_UNFINISHED = ".orbax-checkpoint-tmp*"  # suffix of folders that Orbax is writing


@functools.cache
def _quieten_orbax() -> None:
    """Limits Orbax's log to errors: it warns about intended behaviour, such as read-only folders."""
    logging.getLogger("absl").addFilter(lambda r: r.levelno >= logging.ERROR or "orbax" not in r.pathname)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, with preemption left to the training loop, which counts steps differently from Orbax."""

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints under `workdir`/checkpoints, one folder per step.

    Each holds the train state, the metrics of its evaluation and, as JSON, a description of the run: config, versions
    and class names. A save becomes visible by a rename, only when it is complete and its files' hashes are written;
    what a killed process left unfinished is removed. Damaged checkpoints are moved to `workdir`/damaged when the run is
    started again.

    Args:
      workdir: the run's folder.
      settings: `config.checkpoint`.
      read_only: nothing is saved, moved or removed, because a run may be writing there.

    Attributes:
      set_aside: a sentence for each checkpoint that was moved.

    Raises:
      UserError: `read_only` is set and the metrics of a checkpoint are damaged.
    """

    def __init__(self, workdir: Path, settings: ConfigDict, *, read_only: bool = False):
        _quieten_orbax()
        metric, policies = settings.best_metric or SINGLE_LABEL.figures[0], checkpoint_managers

        def score(metrics: Mapping[str, float]) -> float:
            return metrics[metric]

        self._score, self._lowest = score, lowest_is_best(metric)
        self._directory = (workdir / "checkpoints").absolute()
        self._saving: int | None = None
        self.set_aside: list[str] = []
        if primary() and not read_only:
            self.set_aside = _set_damaged_aside(self._directory)
        barrier("damaged checkpoints are set aside")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(settings.keep_last),
                    policies.BestN(
                        get_metric_fn=score,
                        reverse=self._lowest,  # Orbax keeps the end of the sorted list
                        n=settings.keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            # Without it Orbax does not write metrics, and a resumed run would not know the best checkpoint so far.
            best_fn=score,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = _Manager(self._directory, options=options)
        except ValueError as e:
            raise UserError(
                f"a checkpoint in {self._directory} is damaged ({e}); resume training, which sets it aside"
            ) from e

    def save(self, state: State, metrics: dict[str, float] | None, run: dict[str, Any]) -> None:
        """Starts a save; returns when the state's buffers may be donated. Raises errors of the previous save.

        Args:
          state: the state to save.
          metrics: of the validation split at this step, or None if it was not evaluated; such a checkpoint cannot be
            the best.
          run: the description of the run, for JSON.
        """
        # CPU arrays reach Orbax's writer without a copy, and a donated buffer is overwritten.
        state = jax.tree.map(jnp.copy, state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self.wait()  # saves are distinguished by their step
        self._saving, self._arrays = int(state.step), len(jax.tree.leaves(state))
        self._manager.save(self._saving, args=args, metrics=metrics, force=True)

    def _write_manifest(self) -> None:
        """Called by Orbax in the background, in the first process, just before the rename.

        Raises:
          OSError: the index of what was written lacks arrays.
        """
        (folder,) = self._directory.glob(f"{self._saving}{_UNFINISHED}")
        if (found := _arrays_in_index(folder / "state")) < self._arrays:
            raise OSError(f"of {self._arrays} arrays {found} are in the index of what was written")
        checksums.write(folder)

    @property
    def in_progress(self) -> bool:
        """Whether a save is in progress."""
        return self._manager.is_saving_in_progress()

    def holds(self, step: int) -> bool:
        """Whether there is a complete checkpoint of `step`."""
        return (self._directory / str(step) / checksums.NAME).exists()

    def discard_unfinished(self) -> None:
        """Removes the remains of failed saves, which may be filling the disk."""
        if primary():
            for folder in self._directory.glob(f"*{_UNFINISHED}"):
                shutil.rmtree(folder, ignore_errors=True)

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state saved at `step`, restored onto any devices and shardings.

        Args:
          abstract: the required shapes and dtypes.
          shardings: the target sharding of each array, as returned by `mesh.state_shardings`.
        """
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))["state"]

    def restore_weights(self, step: int, *, averaged: bool) -> tuple[Weights, bool]:
        """One of the two sets of weights in a checkpoint, on the host, whatever devices it was saved from.

        Args:
          step: of the checkpoint.
          averaged: whether to prefer the averaged weights, if they exist.

        Returns:
          The weights, float32 or as trained, and whether they are the averaged ones.
        """
        state = self._directory / str(step) / "state"
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(state).item_metadata.tree
            part = "averaged" if averaged and saved.get("averaged") else "weights"
            wanted = {part: saved[part]}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
            restored = _with_indices(checkpointer.restore(state, args=args)[part])
        return Weights(restored["params"], restored["batch_stats"]), part == "averaged"

    def class_names(self, step: int) -> tuple[str, ...]:
        """The classes that the weights saved at a step were trained with, in the order of the logits."""
        run = self._directory / str(step) / "run" / "metadata"
        return tuple(json.loads(run.read_text())["class_names"])

    def score(self, metrics: Mapping[str, Any]) -> float:
        """The score that the best checkpoint maximizes; the lowest of all if the log has none, as it was not finite."""
        score = self._score(metrics)
        return -math.inf if score is None else -score if self._lowest else score

    @property
    def best_score(self) -> float | None:
        """The highest `score` of a complete checkpoint, or None if none was evaluated."""
        return max(map(self.score, self._evaluated().values()), default=None)

    def _evaluated(self) -> dict[int, dict[str, float]]:
        """The metrics of all complete checkpoints that were evaluated, by step."""
        steps = self._manager.all_steps()
        return {step: metrics for step in steps if (metrics := self._manager.metrics(step))}

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics at a step, or None."""
        return self._evaluated().get(step)

    def ranked(self) -> list[int]:
        """The steps of all complete checkpoints that were evaluated, the best first."""
        scores = {step: self.score(metrics) for step, metrics in self._evaluated().items()}
        return sorted(scores, key=lambda step: scores[step], reverse=True)

    @property
    def latest(self) -> int | None:
        """The step of the last complete checkpoint, or None."""
        return self._manager.latest_step()

    def look(self) -> int | None:
        """Looks again which checkpoints there are; the step of the last complete one, or None."""
        self._manager.reload()
        return self.latest

    def find(self, which: str) -> int:
        """The step of "last", "best" or a number. Damaged checkpoints are reported and skipped.

        Raises:
          UserError: the checkpoint is damaged or does not exist; the message lists those that do.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise UserError(f"there is no checkpoint in {self._directory}; train first, or use another --workdir")
        if which == "last":
            candidates = steps
        elif which == "best":
            candidates = self.ranked()
            if not candidates:
                raise UserError(
                    f"none of the checkpoints in {self._directory} was evaluated, so that none is the best; "
                    f"choose from: {steps[::-1]}, last"
                )
        elif which.isdecimal() and int(which) in steps:
            candidates = [int(which)]
        else:
            there = steps[::-1]
            raise UserError(f'no checkpoint of step "{which}" in {self._directory}; choose from: {there}, last, best')
        for step in candidates:
            why = _damage(self._directory / str(step))
            if why is None:
                return step
            print(f"the checkpoint of step {step} is damaged: {why}")
        raise UserError(f'every checkpoint in {self._directory} that matches "{which}" is damaged')

    def wait(self) -> None:
        """Waits until saved data is on disk; raises errors from the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves, and releases the folder."""
        self._manager.close()


def _arrays_in_index(state: Path) -> int:
    """The number of arrays that a saved state's index names."""
    store = ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{state}/"}}).result()
    return len({key.rpartition(b"/")[0] for key in store.list().result()})


def has_checkpoints(workdir: Path) -> bool:
    """Whether there is a checkpoint in the run's folder, intact or not."""
    return any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is intact."""
    why = checksums.damage(folder)
    # Earlier versions counted saves that held nothing.
    return why if why or (folder / "state" / "manifest.ocdbt").exists() else "it has no index of its arrays"


def _with_indices(tree: Any) -> Any:
    """Converts list indices in a tree to integers: Orbax writes them as strings."""
    if not isinstance(tree, dict):
        return tree
    return {int(key) if key.isdecimal() else key: _with_indices(value) for key, value in tree.items()}


def _set_damaged_aside(directory: Path) -> list[str]:
    """Moves damaged checkpoints to damaged/ next to `directory`; returns a sentence for each."""
    sentences = []
    for folder in sorted((p for p in directory.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name)):
        if (why := _damage(folder)) is not None:
            aside = directory.with_name("damaged")
            aside.mkdir(exist_ok=True)
            target = next(t for i in itertools.count() if not (t := aside / f"{folder.name}.{i}").exists())
            folder.rename(target)
            sentences.append(f"the checkpoint of step {folder.name} is damaged: {why}; it was moved to {target}")
    return sentences
