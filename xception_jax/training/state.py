"""The state of training as one pytree of arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from xception_jax.models.variables import Weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """The input and output of a training step.

    Attributes:
      step: number of optimizer steps done.
      weights: the network's parameters and running batch statistics.
      averaged: their Polyak averages in float32, or None without averaging. The statistics are averaged like the
        parameters, so that they match them: to first order in the differences between steps, they are the statistics of
        the averaged network.
      opt_state: the optimizer's state.
    """

    step: Int[Array, ""]
    weights: Weights
    averaged: Weights | None
    opt_state: optax.OptState

    def evaluated(self, *, averaged: bool) -> Weights:
        """The weights to evaluate: the averaged ones if they exist and `averaged` is True."""
        return self.averaged if averaged and self.averaged is not None else self.weights


def create_state(weights: Weights, optimizer: optax.GradientTransformation, *, averaging: bool) -> TrainState:
    """The initial state."""
    # A sum, not the array itself: a donated buffer must not occur twice in the state.
    averaged = jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, weights) if averaging else None
    return TrainState(jnp.zeros((), jnp.int32), weights, averaged, optimizer.init(weights.params))


def average(averaged: Weights, weights: Weights, step: Int[Array, ""], decay: float) -> Weights:
    """Updates the Polyak averages by one step.

    The decay starts low, min(decay, (1 + step) / (10 + step)), so that in short runs the average is not dominated by
    the initial weights (like `tf.train.ExponentialMovingAverage` with `num_updates`, used for the Inception networks).
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, w: a + (1 - d) * (w.astype(a.dtype) - a), averaged, weights)
