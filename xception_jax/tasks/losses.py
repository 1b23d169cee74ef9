"""Losses, by name.

Shape legend: B batch, K classes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int

from xception_jax.extension.names import Registry, wanted

# From logits [B, K] and labels [B] to the loss per example [B]; options are keyword arguments.
Loss = Callable[..., Float[Array, " B"]]


def cross_entropy(
    logits: Float[Array, "B K"], labels: Int[Array, " B"], *, label_smoothing: float = 0.0
) -> Float[Array, " B"]:
    """Softmax cross-entropy per example, in nats, with label smoothing as in Inception V3, section 7."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


LOSSES: Registry[Loss] = Registry("loss", {"cross_entropy": cross_entropy})


def register_loss(name: str, function: Loss) -> Loss:
    """Registers your own loss under a name for configs.

    Args:
      name: any name without a colon.
      function: from logits [B, K] and labels [B] to the loss per example [B]; other parameters are settings of
        `config.user`, or `label_smoothing`.

    Returns:
      `function`.
    """
    return LOSSES.register(name, function)


def with_options(loss: Loss, options: Mapping[str, Any]) -> Loss:
    """The loss as a function of logits and labels only, with the options bound that it has parameters for."""
    return functools.partial(loss, **wanted(loss, options))
