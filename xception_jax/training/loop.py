"""The training loop."""

import collections
import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from xception_jax import config as config_lib
from xception_jax import experiment as experiment_lib
from xception_jax.data import Source, UnreadableImages, train_batches
from xception_jax.errors import StorageError, TrainingError, UserError
from xception_jax.evaluation.evaluator import Evaluator, eval_step
from xception_jax.evaluation.step import Batch, Metrics
from xception_jax.experiment import Experiment
from xception_jax.extension.names import tells_apart
from xception_jax.filesystem import atomic, paths
from xception_jax.parallel import ending
from xception_jax.parallel.mesh import put_batch
from xception_jax.parallel.preemption import Preempted, Preemption
from xception_jax.parallel.processes import any_of, barrier, gather_texts, primary
from xception_jax.tasks.losses import Loss
from xception_jax.training import summary
from xception_jax.training.recipe import Recipe, create_recipe, length_and_schedule
from xception_jax.training.resizing import image_sizes
from xception_jax.training.state import TrainState
from xception_jax.workdir import curves, identity, sharing
from xception_jax.workdir.checkpoints import Checkpoints, has_checkpoints
from xception_jax.workdir.log import RunLog, read_log
from xception_jax.workdir.saver import Saver
from xception_jax.workdir.status import Status
from xception_jax.workdir.throughput import Clock, Profiler

# Number of batches in transfer to the devices while a step runs.
TRANSFERS_AHEAD = 2


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    source: Callable[[str], Source] | None = None,
    loss: Loss | None = None,
    profile: range = range(0),
    preemption: Preemption | None = None,
) -> dict[str, Any]:
    """Trains, starting from the work directory's last checkpoint if there is one, and evaluates the test split.

    Writes config.json, run.json, status.json, checkpoints/, log.jsonl, tensorboard/, evaluation-<split>.json,
    curves.png and results.json.

    Args:
      config: the settings.
      workdir: the run's folder.
      source: opens a split of the data by its name; replaces `config.data.name`.
      loss: per example, of logits and labels; replaces `config.loss`.
      profile: the steps to trace into profile/.
      preemption: listens for SIGTERM; None: signal handlers are left unchanged.

    Returns:
      The contents of results.json.

    Raises:
      UserError: the config or the data is invalid, or another run is using `workdir`.
      TrainingError: the loss is NaN or infinite, or the final state could not be saved.
      StorageError: the data cannot be read for now; everything is saved.
      Preempted: SIGTERM was received; everything is saved.
    """
    began, workdir = time.monotonic(), paths.workdir(workdir)

    def leave(end: ending.End) -> None:
        status.close("preempted" if end.code == os.EX_TEMPFAIL else "failed", error=end.message)

    with (
        preemption or Preemption(listens=False) as preemption,
        Status(workdir) as status,
        ending.before_leaving(leave),
    ):
        preemption.leave = lambda: status.close("preempted")
        sharing.check_shared(workdir)
        start = prepare(config, workdir, source, loss, profile)
        recipe, checkpoints, tester, latest = start.recipe, start.checkpoints, start.tester, start.latest
        experiment = recipe.experiment
        config = experiment.config
        if primary():
            atomic.write_atomically(workdir / "config.json", config_lib.to_json(config) + "\n")
            identity.record(workdir, start.splits, latest)
        status.update(state="training", step=latest, total_steps=recipe.total_steps)
        train_step, state = ready(recipe, checkpoints)
        with RunLog(workdir, recipe.total_steps, resume_step=int(state.step), primary=primary()) as log:
            for sentence in start.remarks:
                log.note(sentence)
            run = Run(recipe, train_step, start.validator, checkpoints, log, status, preemption, start.profiler)
            state, speed, broken = fit(run, state)
            weights = state.evaluated(averaged=config.evaluation.averaged)
            with status.evaluating():
                predictions, seen = tester.predict(weights, preemption.check)
            record = tester.certify(
                weights, predictions, seen, workdir, step=int(state.step), averaged=weights is state.averaged
            )
        checkpoints.close()
        training = {
            "images_per_second": speed,
            "wall_time": time.monotonic() - began,
            "unreadable": gather_texts(broken.reasons),
        }
        if latest == int(state.step):  # nothing was left to train
            training |= recorded_training(workdir, latest, training)
        results = {
            "metrics": {name: record["metrics"][name] for name in predictions.metrics()},
            **{name: record[name] for name in ("split", "count", "model", "num_parameters", "step")},
            **training,
            **identity.environment(),
        }
        if primary():
            write_results(workdir, results)
    return results


def write_results(workdir: Path, results: dict[str, Any]) -> None:
    """Writes results.json and draws the run's curves."""
    atomic.write_atomically(workdir / "results.json", json.dumps(results, indent=2) + "\n")
    try:
        curves.plot_curves(workdir)
    except UserError as e:  # matplotlib is not installed, say: all else is there
        print(f"no curves.png: {e}")


@dataclasses.dataclass(frozen=True)
class Start:
    """A start that nothing refuses any more.

    Attributes:
      recipe: what is trained, and how.
      validator, tester: evaluate the validation and the test split.
      checkpoints: of the work directory.
      latest: the step of the last one, or 0.
      profiler: of the steps to trace.
      splits: `identity.of_source` of each split, by its name.
      remarks: what a user should know of this start, in sentences.
    """

    recipe: Recipe
    validator: Evaluator
    tester: Evaluator
    checkpoints: Checkpoints
    latest: int
    profiler: Profiler
    splits: dict[str, dict[str, Any]]
    remarks: list[str]


def prepare(
    config: ConfigDict,
    workdir: Path,
    source: Callable[[str], Source] | None,
    loss: Loss | None,
    profile: range,
) -> Start:
    """Opens all that a run needs, and compares it with what is in the work directory; arguments as for `train`.

    Nothing is written, but that damaged checkpoints are set aside.

    Raises:
      UserError: the config, the data or the work directory refuses this start.
    """
    resumed = config_lib.read(workdir / "config.json") if has_checkpoints(workdir) else None
    experiment = experiment_lib.create(config, source=source, loss=loss, resumed=resumed)
    recipe = create_recipe(experiment, resumed=resumed is not None)
    config, step = experiment.config, eval_step(experiment)
    validator, tester = (Evaluator(experiment, config.data[f"{s}_split"], step) for s in ("validation", "test"))
    splits = {e.split: identity.of_source(e.source) for e in (validator, tester)}
    splits[config.data.train_split] = identity.of_source(experiment.source)
    listed = {split: f"{found['num_examples']} examples, {found['examples'][:8]}" for split, found in splits.items()}
    sharing.agreed(lambda: listed, "data", waits=())
    profiler = Profiler(workdir / "profile", profile)
    # Data that is given from Python is compared by its examples, whatever the function that opens it is called.
    may_change = (*config_lib.MAY_CHANGE, *(["data.name"] if source is not None else []))
    remarks = compare(workdir, recipe, splits, may_change)
    if resumed is not None and loss is not None and not tells_apart(loss):
        remarks.append(f"the loss {config.loss} cannot be compared with that of the run until now: it must be the same")
    if primary():
        summary.show(recipe)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    latest = sharing.agreed(checkpoints.look, "checkpoints") or 0
    if latest and (changes := identity.class_differences(checkpoints.class_names(latest), experiment.class_names)):
        raise UserError(f"the training split now has {changes[0]}; restore the data, or use another --workdir")
    check_length(latest, recipe.total_steps)
    remarks += [*checkpoints.set_aside, *profiler.missed(latest, recipe.total_steps), *lost(workdir, latest)]
    return Start(recipe, validator, tester, checkpoints, latest, profiler, splits, remarks)


def lost(workdir: Path, latest: int) -> list[str]:
    """What the log says was saved, but is not there: a sentence, or none."""
    if latest or not (workdir / "log.jsonl").exists():
        return []
    saved = [record["step"] for record in read_log(workdir) if record["kind"] == "save"]
    if not saved:
        return []
    return [
        f"step {max(saved):,} was saved, but {workdir / 'checkpoints'} has no intact checkpoint: training begins anew"
    ]


@dataclasses.dataclass
class Run:
    """The objects that the loop uses."""

    recipe: Recipe
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    validator: Evaluator
    checkpoints: Checkpoints
    log: RunLog
    status: Status
    preemption: Preemption
    profiler: Profiler


def fit(run: Run, state: TrainState) -> tuple[TrainState, float | None, UnreadableImages]:
    """Runs the remaining steps, with evaluations, saves and logging.

    Returns:
      The final state; images per second, or None if no steps were left; the unreadable images.

    Raises:
      Preempted: SIGTERM was received; the state is saved.
      StorageError, UserError: the data cannot be read; the state is saved.
    """
    recipe, log, status, check = run.recipe, run.log, run.status, run.preemption.check
    experiment, start, total = recipe.experiment, int(state.step), recipe.total_steps
    config = experiment.config
    intervals = {key: recipe.interval(key) for key in ("log_every", "evaluation.every", "checkpoint.every")}
    broken, reader, clock = UnreadableImages(config.data.max_unreadable), MetricsReader(run.checkpoints), Clock()
    saver = Saver(run.checkpoints, log, status, run_record(experiment))

    def due(key: str, step: int) -> bool:
        every = intervals[key]
        return every is not None and (step % every == 0 or step == total)

    def exhausted() -> bool:
        return config.patience is not None and any_of(evaluations_since_best(log, run.checkpoints) >= config.patience)

    def evaluate(step: int) -> dict[str, float]:
        reader.finish()
        with clock.stopped(), status.evaluating():
            predictions, _ = run.validator.predict(state.evaluated(averaged=config.evaluation.averaged), check)
        metrics = predictions.metrics()
        log.evaluation(step, metrics, run.validator.split)
        return metrics

    batches = batches_on_devices(experiment, start, broken, run.preemption)
    evaluated = None
    try:
        if start and due("evaluation.every", start) and not any_of(start in log.evaluations):
            evaluate(start)  # SIGTERM had interrupted it
        for step in range(start + 1, total + 1):
            check()
            if (evaluated is not None or step == start + 1) and exhausted():
                log.note(
                    f"training ends at step {step - 1:,}: none of the last {config.patience} evaluations was the best"
                )
                break
            with clock.waiting():
                batch = next(batches)
            with run.profiler.step(step, finish=reader.finish):
                state, metrics = run.train_step(state, batch)
                run.preemption.nothing_to_lose = False
                reader.add(step, metrics)
            if step == start + 1:  # the speed excludes the first batch and one-time allocations
                reader.finish()
                clock.restart()
            else:
                clock.count(config.batch_size)
            if due("log_every", step):
                log.train(step, reader.means(), clock.lap())
                status.update(step=step, seconds_left=log.seconds_left, unreadable=len(broken.reasons))
            evaluated = evaluate(step) if due("evaluation.every", step) else None
            best = evaluated is not None and config.checkpoint.keep_best > 0 and any_of(saver.is_best(evaluated))
            if best or due("checkpoint.every", step) or (due("log_every", step) and saver.due()):
                reader.finish()  # a state after a NaN is never saved
                with clock.stopped():
                    saver.save(state, evaluated)
    except (Preempted, StorageError, UserError) as e:  # the state has nothing to do with it
        reader.finish()
        if int(state.step) > start:
            saver.finish(state, None)
            if not isinstance(e, Preempted):
                log.note(f"stopped by an error; step {int(state.step)} is saved, and the same command resumes from it")
        raise
    finally:
        run.profiler.close()
    saver.finish(state, evaluated)
    run.preemption.nothing_to_lose = True
    return state, clock.mean(), broken


def evaluations_since_best(log: RunLog, checkpoints: Checkpoints) -> int:
    """How many evaluations of the run came after the one with the best score, the first of equals; 0 if none is."""
    metrics = [log.evaluations[step] for step in sorted(log.evaluations)]
    if not metrics:
        return 0
    scores = [checkpoints.score(m) for m in metrics]
    return len(scores) - 1 - scores.index(max(scores))


def check_length(step: int, total_steps: int) -> None:
    """Raises UserError if a run that is at `step` is past the length of training."""
    if step > total_steps:
        raise UserError(
            f"the work directory is already at step {step}, past the {total_steps} steps of the config; "
            "train longer, or use another --workdir"
        )


def ready(recipe: Recipe, checkpoints: Checkpoints) -> tuple[Callable, TrainState]:
    """The training step, and the state of the last checkpoint, or the initial state if there is none.

    The step is compiled, if steps are left, while the state is initialised or restored; for larger images, if there are
    any, when they come.
    """
    latest, total = checkpoints.latest, recipe.total_steps
    compiled, size = functools.cache(recipe.compiled_train_step), image_sizes(recipe.experiment)(latest or 0)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return compiled(batch["image"].shape[1])(state, batch)

    with ThreadPoolExecutor(1, "compilation") as pool:
        compiling = pool.submit(compiled, size) if latest != total else None
        if latest is None:
            state = recipe.initial_state()
        else:
            print(f"Resuming from step {latest}.")
            state = checkpoints.restore(latest, recipe.abstract_state, recipe.state_shardings)
    if compiling is not None:
        first = compiling.result()
        if primary():
            summary.show_memory(recipe, first if size == recipe.experiment.config.image_size else None)
    return train_step, state


def run_record(experiment: Experiment) -> dict[str, Any]:
    """A checkpoint's description of its run."""
    return {
        "config": experiment.config.to_dict(),
        "class_names": list(experiment.class_names),
        "environment": identity.environment(),
    }


def compare(
    workdir: Path,
    recipe: Recipe,
    splits: dict[str, dict[str, Any]],
    may_change: tuple[str, ...] = config_lib.MAY_CHANGE,
) -> list[str]:
    """Raises UserError if the work directory belongs to another config or other data.

    Args:
      workdir: the run's folder.
      recipe: the recipe to run there.
      splits: `identity.of_source` of each split, by its name.
      may_change: the beginnings of settings that may differ.

    Returns:
      A sentence for each permitted difference from the start of the run.
    """
    path, config = workdir / "config.json", recipe.experiment.config
    remarks = []
    if path.exists():
        old = config_lib.read(path)
        config_lib.check_same_run(workdir, old, config, may_change)
        before = length_and_schedule(dataclasses.replace(recipe.experiment, config=old))
        remarks = change_of_length(*before, recipe)
        remarks += identity.compare(workdir, splits, config.data.train_split)
    barrier("the config was compared")
    return remarks


def recorded_training(workdir: Path, step: int, names: Iterable[str]) -> dict[str, Any]:
    """Of results.json the figures `names`, if it is there and of this step."""
    try:
        results = json.loads((workdir / "results.json").read_text())
        return {name: results[name] for name in names if name in results} if results["step"] == step else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def change_of_length(old_steps: int, old_schedule: optax.Schedule, new: Recipe) -> list[str]:
    """The effect of a different length of training, as at most one sentence."""
    if old_steps == new.total_steps:
        return []
    sentence = f"training lasts {new.total_steps:,} steps, not {old_steps:,} as before"
    # The end of the shorter run, where runs are usually extended and the rates differ most.
    step = min(old_steps, new.total_steps)
    before, after = (float(schedule(step)) for schedule in (old_schedule, new.schedule))
    if before != after:
        name = new.experiment.config.schedule.name
        sentence += (
            f"; the {name} schedule follows the new length: at step {step:,} the learning rate is {after:.3g}, "
            f"not {before:.3g}"
        )
    return [sentence]


def batches_on_devices(
    experiment: Experiment, start: int, broken: UnreadableImages, preemption: Preemption | None = None
) -> Iterator[dict[str, jax.Array]]:
    """The training batches from step `start` on, transferred to the devices ahead of use.

    If one process of several cannot go on reading, all stop before the first step that it has no batch for.
    """
    config = experiment.config
    local = train_batches(
        experiment.source,
        experiment.input,
        experiment.augmentation,
        batch_size=config.batch_size,
        threads=config.data.num_threads,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        broken=broken,
        image_sizes=image_sizes(experiment),
    )
    ahead: collections.deque[Batch] = collections.deque()
    try:
        for batch in local:
            ahead.append(put_batch({k: batch[k] for k in ("image", "label")}, experiment.mesh))
            if len(ahead) > TRANSFERS_AHEAD:
                yield ahead.popleft()
    except (StorageError, UserError) as e:
        if preemption is None or len(ahead) < TRANSFERS_AHEAD:  # the latter at the start, where nothing is lost
            raise
        preemption.stop(e)
        yield from ahead


class MetricsReader:
    """Reads each step's metrics after the next step has been dispatched, so that the device does not wait.

    Raises:
      TrainingError: in any method, if a loss or gradient is not finite.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._pending: tuple[int, Metrics] | None = None
        self._read: list[dict[str, float]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of the step just dispatched, and reads those of the previous step."""
        self.finish()
        self._pending = step, metrics

    def finish(self) -> None:
        """Reads the remaining metrics."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            with contextlib.suppress(Exception):  # do not report a failed save instead of this error
                self._checkpoints.wait()
            kept = self._checkpoints.latest
            raise TrainingError(
                f"at step {step} the loss is {values['loss']} and the gradient norm is {values['gradient_norm']}; "
                + (f"the checkpoint of step {kept} is kept. " if kept else "there is no checkpoint yet. ")
                + "Try a lower config.learning_rate, a warm-up (config.schedule.warmup) or config.optimizer.clip_norm"
            )
        self._read.append(values)

    def means(self) -> dict[str, float]:
        """Means over the steps since the last call; for the learning rate, the last value."""
        self.finish()
        values, self._read = self._read, []
        result = {name: sum(v[name] for v in values) / len(values) for name in values[0]}
        return result | {"learning_rate": values[-1]["learning_rate"]}
