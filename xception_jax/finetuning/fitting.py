"""What the ways of fitting a head on features have in common.

Shape legend: N examples, D features, K outputs.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xception_jax.models.variables import Weights
from xception_jax.tasks.task import TaskName

PATIENCE = 2  # so many weaker regularizations in a row that are worse on the validation split end the search


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples to fit or to choose on.

    Attributes:
      features: float32 [N, D].
      targets: as `Labelled.targets`.
      weights: float32 [N], of the examples in the loss.
      num_outputs: K.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    num_outputs: int


@dataclasses.dataclass(frozen=True)
class Trial:
    """A head fitted with one strength of regularization.

    Attributes:
      strength: of the regularization.
      head: the arrays of the fitted `models.head.Head`.
      train_loss, validation_loss: weighted means, without the regularization.
    """

    strength: float
    head: Weights
    train_loss: float
    validation_loss: float


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the least loss on the validation split."""
    return min(trials, key=lambda trial: trial.validation_loss)


def ended(trials: Sequence[Trial]) -> bool:
    """Whether the last trials were all worse than an earlier one."""
    return len(trials) - 1 - list(trials).index(best(trials)) >= PATIENCE


def loss_per_example(task: TaskName, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The loss of each example: cross-entropy; binary cross-entropy, a sum over the labels; half the squared error.

    Args:
      task: what the logits are for.
      logits: [N, K].
      targets: as `Labelled.targets`.

    Returns:
      float32 [N].
    """
    if task == "single_label":
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if task == "multi_label":
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
    return 0.5 * jnp.square(logits - targets).sum(-1)
