"""Temperature scaling (C. Guo et al., 2017, section 4.2): one number, fitted on the validation split.

It is multiplied into the last layer, so that whatever runs the network, here or elsewhere, gives calibrated scores.
"""

import jax.numpy as jnp
import numpy as np

from xception_jax.finetuning.fitting import loss_per_example
from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName

LEAST, MOST = 0.05, 20.0


def temperature(task: TaskName, logits: np.ndarray, targets: np.ndarray) -> float:
    """The number by which logits are divided so that the loss is least; 1 for regression.

    Args:
      task: what the logits are for.
      logits: float32 [N, K].
      targets: as `Labelled.targets`.
    """
    if task == "regression" or not len(logits):
        return 1.0
    from scipy import optimize

    def loss(log: float) -> float:
        scaled = jnp.asarray(logits / np.float32(np.exp(log)))
        return float(np.mean(loss_per_example(task, scaled, jnp.asarray(targets))))

    found = optimize.minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))


def cooled(head: Weights, temperature: float) -> Weights:
    """A head whose logits are divided by the temperature."""
    logits = {name: x / np.float32(temperature) for name, x in head.params["logits"].items()}
    return Weights(head.params | {"logits": logits}, head.batch_stats)
