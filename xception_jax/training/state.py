"""All that training changes, as one pytree of arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from xception_jax.models.variables import Weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """What one step of training takes and returns.

    Attributes:
      step: optimizer steps done.
      weights: the network's parameters and running batch statistics.
      averaged: their Polyak averages in float32, or None without averaging. The statistics are averaged like the
        parameters, so that they belong to them: to first order in the steps' differences they are the statistics of the
        averaged network.
      opt_state: the optimizer's.
    """

    step: Int[Array, ""]
    weights: Weights
    averaged: Weights | None
    opt_state: optax.OptState

    def evaluated(self, *, averaged: bool) -> Weights:
        """The weights that are evaluated: the averaged ones where there are any and they are wanted."""
        return self.averaged if averaged and self.averaged is not None else self.weights


def create_state(weights: Weights, optimizer: optax.GradientTransformation, *, averaging: bool) -> TrainState:
    """The state before the first step."""
    # The sum, not the array itself: a donated buffer may stand in the state only once.
    averaged = jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, weights) if averaging else None
    return TrainState(jnp.zeros((), jnp.int32), weights, averaged, optimizer.init(weights.params))


def average(averaged: Weights, weights: Weights, step: Int[Array, ""], decay: float) -> Weights:
    """Polyak averages one step on.

    The decay starts low, min(decay, (1 + step) / (10 + step)), so that a short run's average is not its first weights
    (as `tf.train.ExponentialMovingAverage` with `num_updates`, with which the Inception networks were trained).
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, w: a + (1 - d) * (w.astype(a.dtype) - a), averaged, weights)
