"""Temperature scaling (C. Guo et al., 2017, section 4.2): one number, fitted on the validation split.

The last layer is divided by it, so that whatever runs the network, here or elsewhere, gives calibrated scores.
"""

import jax.numpy as jnp
import numpy as np
import optax

from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName

LEAST, MOST = 0.05, 20.0


def temperature(task: TaskName, logits: np.ndarray, targets: np.ndarray) -> float:
    """The number by which logits are divided so that the loss is least; 1 for regression.

    The loss is that of targets as J. Platt (1999, section 2.2) has them, not quite 0 and 1: of few images that are all
    right, or nearly, the least loss would otherwise be that of a network which is sure of everything.

    Args:
      task: what the logits are for.
      logits: float32 [N, K].
      targets: as `Labelled.targets`.
    """
    if task == "regression" or not len(logits):
        return 1.0
    from scipy import optimize

    expected = _expected(task, targets, logits.shape[1])

    def loss(log: float) -> float:
        scaled = jnp.asarray(logits / np.float32(np.exp(log)))
        of_each = optax.softmax_cross_entropy if task == "single_label" else optax.sigmoid_binary_cross_entropy
        return float(jnp.mean(of_each(scaled, expected)))

    found = optimize.minimize_scalar(loss, bounds=(np.log(LEAST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))


def _expected(task: TaskName, targets: np.ndarray, num_outputs: int) -> np.ndarray:
    """Targets if there were an example more of each kind, one for right and one for wrong: float32 [N, K]."""
    if task == "single_label":
        wrong = 1 / (len(targets) + 2)
        spread = np.full((len(targets), num_outputs), wrong / (num_outputs - 1), np.float32)
        spread[np.arange(len(targets)), targets] = 1 - wrong
        return spread
    positive = targets.sum()
    high, low = (positive + 1) / (positive + 2), 1 / (targets.size - positive + 2)
    return np.where(targets > 0, high, low).astype(np.float32)


def cooled(head: Weights, temperature: float) -> Weights:
    """A head whose logits are divided by the temperature."""
    logits = {name: x / np.float32(temperature) for name, x in head.params["logits"].items()}
    return Weights(head.params | {"logits": logits}, head.batch_stats)
