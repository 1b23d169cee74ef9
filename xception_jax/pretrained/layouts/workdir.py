"""Weights from one of our work directories."""

from pathlib import Path

from xception_jax import config as config_lib
from xception_jax.pretrained.pretrained import Pretrained
from xception_jax.tasks.task import find_task
from xception_jax.terminal.words import significant
from xception_jax.workdir.checkpoints import Checkpoints


def read_workdir(path: Path, source: str, which: str | None = None) -> Pretrained:
    """The weights that a run evaluates: the averaged ones if they exist and its config asks for them.

    Args:
      path: the run's folder.
      source: its name in messages.
      which: "last", "best", or a step; None: the best, or the last if none was evaluated.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    config = config_lib.read(path / "config.json")
    checkpoints = Checkpoints(path, config.checkpoint, read_only=True)
    step = checkpoints.find(which or ("last" if checkpoints.best_score is None else "best"))
    weights, _ = checkpoints.restore_weights(step, averaged=config.evaluation.averaged)
    found, metric = checkpoints.metrics(step), config.checkpoint.best_metric
    class_names = checkpoints.class_names(step)
    checkpoints.close()
    evaluated = f", {metric} {significant(found[metric])} on {config.data.validation_split}" if found else ""
    return Pretrained(
        f"{source} (step {step}{evaluated})",
        config.model.name,
        config_lib.model_options(config),
        len(class_names),
        weights,
        config_lib.input_spec(config),
        class_names,
        scores=find_task(config.task).scores,
    )
