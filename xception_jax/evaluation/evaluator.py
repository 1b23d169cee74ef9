"""Evaluation of a whole split: every example exactly once, on any number of devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xception_jax.data import Source, UnreadableImages, evaluation_batches
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.step import Batch, Metrics, make_eval_step
from xception_jax.experiment import Experiment
from xception_jax.inputs.views import preprocessing_fingerprint
from xception_jax.models.variables import Weights, num_parameters
from xception_jax.parallel import processes
from xception_jax.parallel.mesh import gathered, put_batch

EvalStep = Callable[[Weights, Batch], Metrics]


def eval_step(experiment: Experiment) -> EvalStep:
    """The evaluation step of an experiment, shared by all splits so that it is compiled only once."""
    return make_eval_step(
        experiment.graphdef,
        experiment.num_classes,
        experiment.mesh,
        experiment.input.normalization,
        experiment.weights_shardings,
        loss=experiment.evaluation_loss,
        metrics=experiment.metrics,
        lowering=experiment.lowering,
    )


class Evaluator:
    """Evaluates one split of an experiment's data.

    Args:
      experiment: the network and its data.
      split: the split's name.
      step: `eval_step` of the experiment.

    Raises:
      UserError: unknown split, or its classes differ from those of the training split.
    """

    def __init__(self, experiment: Experiment, split: str, step: EvalStep):
        self.split = split
        self._experiment, self._step = experiment, step
        self.source = open_split(experiment, split)

    def predict(
        self, weights: Weights, check: Callable[[], None] = lambda: None
    ) -> tuple[report.Predictions, list[str]]:
        """The predictions for each example, in the split's order, and the names of unreadable examples.

        `check` is called before each batch, and interrupts the evaluation by raising.
        """
        e = self._experiment
        batches = evaluation_batches(
            self.source,
            e.input,
            batch_size=e.evaluation_batch_size,
            threads=e.config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            broken=UnreadableImages(e.config.data.max_unreadable),
        )
        rows = collect(self._step, weights, batches, e.mesh, check)
        read = set(rows["index"].tolist())
        skipped = [self.source.example_id(i) for i in range(len(self.source)) if i not in read]
        predictions = report.Predictions(
            ids=[self.source.example_id(int(i)) for i in rows["index"]],
            labels=rows["label"],
            top5=rows["top5"],
            confidence=rows["confidence"],
            loss=rows["loss"],
            own={name: rows[name] for name in e.metrics},
        )
        if len(predictions.ids) == 0:
            raise UserError(f'none of the {len(self.source)} images of split "{self.split}" could be read')
        return predictions, sorted(skipped)

    def certify(
        self,
        weights: Weights,
        predictions: report.Predictions,
        skipped: list[str],
        workdir: Path,
        *,
        step: int,
        averaged: bool,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Writes the certificate of `predictions` into the work directory and returns it.

        Args:
          weights: the weights that were evaluated.
          predictions, skipped: as returned by `predict`.
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
            skipped=skipped,
            class_names=list(self.source.class_names),
            weights_hash=report.hash_weights(gathered(weights, e.mesh)),
            preprocessing=preprocessing_fingerprint(e.input),
            averaged=averaged,
            step=step,
            model_name=e.config.model.name,
            num_parameters=num_parameters(weights),
            config=e.config.to_dict(),
        )
        if processes.primary():
            report.write(workdir, record, predictions, name)
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


def _kept(outputs: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of a batch that are examples, not padding, on the host."""
    rows = {k: np.asarray(v) for k, v in outputs.items()}
    mask = rows.pop("mask")
    return {k: v[mask] for k, v in rows.items()}


def open_split(experiment: Experiment, split: str) -> Source:
    """Opens a split of the experiment's data; its classes must be those of the training split."""
    source = experiment.open_split(split)
    if tuple(source.class_names) != tuple(experiment.source.class_names):
        trained = experiment.config.data.train_split
        raise UserError(f'split "{split}" has different classes than split "{trained}"')
    return source
