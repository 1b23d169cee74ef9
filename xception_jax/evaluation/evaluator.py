"""Evaluation of a whole split: every example exactly once, on any number of devices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from xception_jax.data import BrokenPictures, Source, evaluation_batches, open_source, preprocessing_fingerprint
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.experiment import Experiment
from xception_jax.parallel import processes
from xception_jax.parallel.mesh import gathered, put_batch
from xception_jax.training.state import TrainState, Weights, num_parameters
from xception_jax.training.step import Batch, Metrics


class Evaluator:
    """Evaluates one split of an experiment's data."""

    def __init__(self, experiment: Experiment, split: str):
        self.split = split
        self._experiment = experiment
        self._source = open_split(experiment, split)

    def weights_of(self, state: TrainState) -> Weights:
        """The weights that are evaluated: the averaged ones where the run has them and the config asks for them."""
        averaged = self._experiment.config.evaluation.averaged and state.averaged is not None
        return state.averaged if averaged else state.weights  # type: ignore[return-value]

    def predict(
        self, state: TrainState, check: Callable[[], None] = lambda: None
    ) -> tuple[report.Predictions, list[str]]:
        """What the network says of each example, in the split's order, and the names of those it could not read.

        `check` is called before each batch, and breaks off by raising.
        """
        c = self._experiment.config
        batches = evaluation_batches(
            self._source,
            c.data,
            image_size=c.image_size,
            batch_size=self._experiment.evaluation_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            broken=BrokenPictures(c.data.most_broken),
        )
        rows = collect(self._experiment.eval_step, self.weights_of(state), batches, self._experiment.mesh, check)
        read = set(rows["index"].tolist())
        skipped = [self._source.example_id(i) for i in range(len(self._source)) if i not in read]
        predictions = report.Predictions(
            ids=[self._source.example_id(int(i)) for i in rows["index"]],
            labels=rows["label"],
            top5=rows["top5"],
            confidence=rows["confidence"],
            loss=rows["loss"],
        )
        if len(predictions.ids) == 0:
            raise UserError(f'none of the {len(self._source)} pictures of split "{self.split}" could be read')
        return predictions, sorted(skipped)

    def certify(
        self, state: TrainState, predictions: report.Predictions, skipped: list[str], workdir: Path
    ) -> dict[str, Any]:
        """Writes the certificate of `predictions` into the work directory and returns it."""
        c, weights = self._experiment.config, self.weights_of(state)
        record = report.certificate(
            predictions,
            split=self.split,
            split_size=len(self._source),
            skipped=skipped,
            class_names=list(self._source.class_names),
            weights_hash=report.hash_weights(gathered(weights, self._experiment.mesh)),
            preprocessing=preprocessing_fingerprint(c.data, c.image_size),
            averaged=weights is state.averaged,
            step=int(state.step),
            model_name=c.model.name,
            num_parameters=num_parameters(weights),
            config=c.to_dict(),
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
    """Runs the evaluation step over batches and returns its rows, without those of padding and broken pictures.

    The next batch is dispatched before the last one's results are read.
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
    """Rows of a batch that are examples, not padding, on the host."""
    rows = {k: np.asarray(v) for k, v in outputs.items()}
    mask = rows.pop("mask")
    return {k: v[mask] for k, v in rows.items()}


def open_split(experiment: Experiment, split: str) -> Source:
    """A split of the experiment's data, with the classes of its training split."""
    c = experiment.config
    source = open_source(c.data, split, c.image_size)
    if source.class_names != experiment.source.class_names:
        raise UserError(f'split "{split}" has other classes than split "{c.data.train_split}"')
    return source
