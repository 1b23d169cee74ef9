"""Losses, by name.

Shape legend: B batch, K classes, or numbers to predict.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from xception_jax.extension.names import Registry, name_of, wanted

# From logits [B, K] and labels, int [B] or float [B, K], to the loss per example [B]; options are keyword arguments.
Loss = Callable[..., Float[Array, " B"]]


def cross_entropy(
    logits: Float[Array, "B K"], labels: Int[Array, " B"] | Float[Array, "B K"], *, label_smoothing: float = 0.0
) -> Float[Array, " B"]:
    """Softmax cross-entropy per example, in nats, with label smoothing as in Inception V3, section 7."""
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


def binary_cross_entropy(
    logits: Float[Array, "B K"],
    labels: Int[Array, " B"] | Float[Array, "B K"],
    *,
    label_smoothing: float = 0.0,
    label_weights: Any = None,
    target_threshold: float | None = None,
) -> Float[Array, " B"]:
    """Sigmoid cross-entropy per example, in nats: the mean over the labels, as in Keras, PyTorch and timm.

    Args:
      logits: of each class on its own.
      labels: the class, or 1 and 0 for each class, or between; NaN where it is not known, which does not count. Without
        any that is known the loss is 0.
      label_smoothing: of one class, spread over all, as timm does; of several, each is moved towards 1/2 by it, as
        Keras does.
      label_weights: [K], 0 or more: factors of the labels' losses; their mean over the labels is not normalized. None:
        1.
      target_threshold: targets above it become 1 and the others 0, as in "ResNet strikes back" (R. Wightman et al.,
        arXiv 2110.00476): an image mixed of two has both classes. None: targets stay as they are.
    """
    targets = smoothed_targets(labels, logits.shape[-1], label_smoothing)
    known = ~jnp.isnan(targets)
    if target_threshold is not None:
        targets = targets > target_threshold
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, targets, 0))
    if label_weights is not None:
        losses *= jnp.asarray(label_weights, losses.dtype)[None]
    return jnp.where(known, losses, 0).sum(-1) / jnp.maximum(known.sum(-1), 1)


def squared_error(logits: Float[Array, "B K"], labels: Float[Array, "B K"]) -> Float[Array, " B"]:
    """Squared error per example: the mean over the numbers."""
    return jnp.square(logits - labels).mean(-1)


def smoothed_targets(
    labels: Int[Array, " B"] | Float[Array, "B K"], num_classes: int, label_smoothing: float
) -> Float[Array, "B K"]:
    """Targets of a sigmoid for each of K classes: smoothing is spread over all, or of several labels towards 1/2."""
    if labels.ndim == 1:
        return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)
    return (1 - label_smoothing) * labels + label_smoothing / 2


LOSSES: Registry[Loss] = Registry(
    "loss",
    {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy, "squared_error": squared_error},
)


def register_loss(name: str, function: Loss) -> Loss:
    """Registers your own loss under a name for configs, in this process.

    Args:
      name: any name without a colon.
      function: from logits [B, K] and labels (int [B]; of several labels and of numbers float [B, K]) to the loss per
        example [B]; other parameters are settings of `config.user`, `label_smoothing`, `label_weights` or
        `target_threshold`.

    Returns:
      `function`.
    """
    return LOSSES.register(name, function)


def with_options(loss: Loss, options: Mapping[str, Any]) -> Loss:
    """The loss as a function of logits and labels only, with the options bound that it has parameters for.

    Raises:
      UserError: it needs others.
    """
    return functools.partial(loss, **wanted(loss, options, 2, f'loss "{name_of(loss)}"', "user"))
