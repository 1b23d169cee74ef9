"""Evaluation of a whole split: every example exactly once, on any number of devices."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xception_jax.data import Batch as LocalBatch
from xception_jax.data import Source, UnreadableImages, evaluation_batches
from xception_jax.data.decode import UnreadableImageError
from xception_jax.errors import StorageError, UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.predictions import PerExample, from_columns
from xception_jax.evaluation.step import Batch, Metrics, make_eval_step
from xception_jax.experiment import Experiment
from xception_jax.inputs.views import how_seen, preprocessing_fingerprint
from xception_jax.models.variables import Weights, num_parameters
from xception_jax.parallel import processes
from xception_jax.parallel.mesh import gathered, put_batch

EvalStep = Callable[[Weights, Batch], Metrics]


def eval_step(experiment: Experiment, among: np.ndarray | None = None) -> EvalStep:
    """The evaluation step of an experiment, shared by all splits so that it is compiled only once.

    `among`, bool [K], are the classes that are chosen among; None: all.
    """
    return make_eval_step(
        experiment.graphdef,
        experiment.num_classes,
        experiment.mesh,
        experiment.input.normalization,
        experiment.weights_shardings,
        task=experiment.task,
        loss=experiment.evaluation_loss,
        metrics=experiment.metrics,
        lowering=experiment.lowering,
        among=among,
    )


def present(source: Source) -> np.ndarray:
    """Which classes a split with one class an image has: bool [K]."""
    found = np.zeros(len(source.class_names), bool)
    for i in range(len(source)):
        with contextlib.suppress(OSError, UnreadableImageError):  # named as unreadable when it is evaluated
            found[source[i][1]] = True
    return found


class Evaluator:
    """Evaluates one split of an experiment's data.

    Args:
      experiment: the network and its data.
      split: the split's name.
      step: `eval_step` of the experiment.

    Raises:
      UserError: unknown split, or it has classes that the run does not have, or no labels.
    """

    def __init__(self, experiment: Experiment, split: str, step: EvalStep):
        self.split = split
        self._experiment, self._step = experiment, step
        self.source = experiment.open_split(split)
        if experiment.config.evaluation.only_present:
            self._step = eval_step(experiment, present(self.source))

    def predict(self, weights: Weights, check: Callable[[], None] = lambda: None) -> tuple[PerExample, report.Seen]:
        """The predictions for each example that can be read, in the split's order, and what became of the images.

        `check` is called before each batch, and interrupts the evaluation by raising.
        """
        e, broken = self._experiment, UnreadableImages(self._experiment.config.data.max_unreadable)
        own_names: dict[int, str] = {}
        treated: list[str] = []
        batches = evaluation_batches(
            self.source,
            e.input,
            batch_size=e.evaluation_batch_size,
            names=own_names,
            threads=e.config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            broken=broken,
            treated=treated,
        )
        failed: list[StorageError | UserError] = []
        rows = collect(self._step, weights, self._to_the_end(batches, failed), e.mesh, check)
        processes.raise_together(failed[0] if failed else None)
        names = _all_names(own_names)
        reasons = processes.gather_texts(broken.reasons)
        read = rows["index"].tolist()
        unreadable = sorted(names[i] for i in names.keys() - set(read))
        own = {name: rows.pop(name) for name in e.metrics}
        columns = {"labels": rows.pop("label"), "ids": [names[i] for i in rows.pop("index").tolist()], **rows}
        columns |= {} if e.class_weights is None else {"class_weights": np.array(e.class_weights)}
        predictions = from_columns(e.task.name, columns, own)
        if len(predictions.ids) == 0:
            raise UserError(f'none of the {len(self.source)} images of split "{self.split}" could be read')
        return predictions, report.Seen({name: reasons.get(name, "") for name in unreadable}, total(treated))

    def _to_the_end(
        self, batches: Iterator[LocalBatch], failed: list[StorageError | UserError]
    ) -> Iterator[LocalBatch]:
        """The batches; if one process of several cannot read on, blank ones, so that no other waits for it."""
        e, count = self._experiment, 0
        try:
            for count, batch in enumerate(batches, 1):  # noqa: B007
                yield batch
        except (StorageError, UserError) as error:
            if jax.process_count() == 1:
                raise
            failed.append(error)
        size = e.evaluation_batch_size
        rows, side = size // jax.process_count(), e.input.image_size
        shapes = {"image": ((rows, side, side, 3), np.uint8), "mask": ((rows,), np.bool_)}
        shapes |= {"label": (e.labels(rows).shape, e.task.dtype), "index": ((rows,), np.int32)}
        for _ in range(count, -(-len(self.source) // size)):
            yield {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def certify(
        self,
        weights: Weights,
        predictions: PerExample,
        seen: report.Seen,
        workdir: Path,
        *,
        step: int,
        averaged: bool,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Writes the certificate of `predictions` into the work directory and returns it.

        Args:
          weights: the weights that were evaluated.
          predictions, seen: as returned by `predict`.
          workdir: the run's folder.
          step: number of optimizer steps that the weights were trained for.
          averaged: whether they are Polyak averages.
          name: in the files' names; None: the split's.
        """
        e = self._experiment
        record = report.certificate(
            predictions,
            split=self.split,
            split_size=len(self.source),
            seen=seen,
            class_names=list(self.source.class_names),
            weights_hash=report.hash_weights(gathered(weights, e.mesh)),
            preprocessing=preprocessing_fingerprint(e.input),
            pictures=how_seen(e.input),
            averaged=averaged,
            step=step,
            model_name=e.config.model.name,
            num_parameters=num_parameters(weights),
            config=e.config.to_dict(),
            name=name,
        )
        if processes.primary():
            report.write(workdir, record, predictions)
        return record


def collect(
    step: Callable[[Weights, Batch], Metrics],
    weights: Weights,
    batches: Any,
    mesh: jax.sharding.Mesh,
    check: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Runs the evaluation step over batches and returns its rows, without padding and unreadable images.

    The next batch is dispatched before the results of the previous one are read.
    """
    rows: list[dict[str, np.ndarray]] = []
    pending: dict[str, jax.Array] | None = None
    for local in batches:
        check()
        outputs = step(weights, put_batch(local, mesh))
        if pending is not None:
            rows.append(_kept(pending))
        pending = outputs
    if pending is not None:
        rows.append(_kept(pending))
    columns = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
    assert len(np.unique(columns["index"])) == len(columns["index"]), "an example was evaluated twice"
    return columns


def _all_names(own: dict[int, str]) -> dict[int, str]:
    """The names of a split's examples by position, of which each process has read its own."""
    positions = (line.partition(" ") for line in processes.gather(f"{i} {name}" for i, name in own.items()))
    return {int(position): name for position, _, name in positions}


def _kept(outputs: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of a batch that are examples, not padding, on the host."""
    rows = {k: np.asarray(v) for k, v in outputs.items()}
    mask = rows.pop("mask")
    return {k: v[mask] for k, v in rows.items()}


def total(treated: list[str]) -> Counter[str]:
    """How often each text is in the lists of all processes, together."""
    counts = {f"{jax.process_index()} {what}": str(count) for what, count in Counter(treated).items()}
    result = Counter[str]()
    for key, count in processes.gather_texts(counts).items():
        result[key.partition(" ")[2]] += int(count)
    return result
