"""Evaluation of a run, from its work directory alone."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from xception_jax import config as config_lib
from xception_jax import experiment
from xception_jax.data import Source
from xception_jax.errors import TrainingError
from xception_jax.evaluation import report
from xception_jax.evaluation.evaluator import Evaluator, eval_step
from xception_jax.extension.names import tells_apart
from xception_jax.filesystem import paths
from xception_jax.tasks.losses import Loss
from xception_jax.tasks.task import in_words
from xception_jax.workdir import identity, sharing
from xception_jax.workdir.checkpoints import Checkpoints


def evaluate_run(
    workdir: str | Path,
    config: ConfigDict | None = None,
    *,
    step: int | str = "last",
    source: Callable[[str], Source] | None = None,
    loss: Loss | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on `data.test_split`, and writes its certificate into the work directory.

    The run's own certificates are of its own data, seen as it was trained; others have other names.

    Args:
      workdir: the run's folder.
      config: other data, or another input, than the run's own; None: as the run was trained.
      step: of the checkpoint, or "last" or "best".
      source: opens a split of the data by its name; replaces `config.data.name`.
      loss: per example, of logits and labels; replaces `config.loss`.

    Returns:
      The certificate's contents. Its `name` is the split's, unless what is evaluated is not what the run evaluates.

    Raises:
      UserError: there is no such run or checkpoint, or the config is another network's, or the data is invalid.
      StorageError: the data cannot be read for now.
      TrainingError: the certificate could not be written; the message has the figures.
    """
    workdir = paths.workdir(workdir)
    recorded = config_lib.read(workdir / "config.json")
    settings = _settings(workdir, recorded, config)
    with contextlib.closing(Checkpoints(workdir, settings.checkpoint, read_only=True)) as checkpoints:
        found = sharing.agreed(lambda: checkpoints.find(str(step)), "checkpoints", waits=())
        class_names = checkpoints.class_names(found)
        run = experiment.create(settings, source=source, loss=loss, class_names=class_names)
        evaluator = Evaluator(run, settings.data.test_split, eval_step(run))
        on_host, averaged = checkpoints.restore_weights(found, averaged=settings.evaluation.averaged)
    weights = jax.device_put(on_host, run.weights_shardings)
    predictions, seen = evaluator.predict(weights)
    settings.data.name = run.config.data.name  # the source's, if one is given
    if loss is not None:
        settings.loss = run.config.loss
        if not tells_apart(loss):
            print(f"the loss {settings.loss} cannot be compared with that of the run: it must be the same")
    name = report.name_of(workdir, recorded, settings, evaluator.split, identity.of_source(evaluator.source))
    try:
        return evaluator.certify(weights, predictions, seen, workdir, step=found, averaged=averaged, name=name)
    except OSError as e:
        figures = in_words(predictions.metrics())
        raise TrainingError(f"{figures}: could not be written to {workdir}: {e.strerror or e}") from None


def _settings(workdir: Path, recorded: ConfigDict, config: ConfigDict | None) -> ConfigDict:
    """The settings of an evaluation: the run's, or those of `config` where an evaluation may have others.

    Raises:
      UserError: the config is of another network.
    """
    settings = recorded.copy_and_resolve_references()
    settings.mesh = config_lib.default().mesh  # the one it was trained on may not fit these devices
    if config is not None:
        config_lib.validate(config)
        asked = config_lib.fill(config, config_lib.flatten(settings))
        asked.model.weights = settings.model.weights
        config_lib.check_same_run(workdir, settings, asked, config_lib.EVALUATION_MAY_CHANGE)
        if asked.task != settings.task:  # these follow from it, unless they are given, too
            asked.loss, asked.checkpoint.best_metric = config.loss, config.checkpoint.best_metric
        settings = asked
    settings.model.weights = ""  # where training began; the checkpoint has the trained weights
    settings.label_weights = ""  # of the training loss alone; the table may be gone
    return settings
