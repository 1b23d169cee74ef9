"""Monte Carlo dropout: uncertainty by dropout at inference (Y. Gal and Z. Ghahramani, arXiv 1506.02142).

Shape legend: B batch, D features, K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from xception_jax.models.head import SCORES, Head, Scores


class Uncertain(NamedTuple):
    """Scores and their variation."""

    mean: Float[Array, "B K"]
    std: Float[Array, "B K"]


def monte_carlo_dropout(
    head: Head,
    pooled: Float[Array, "B D"],
    key: PRNGKeyArray,
    *,
    passes: int = 30,
    scores: Scores = "softmax",
) -> Uncertain:
    """Mean and population standard deviation of a network's scores over dropout masks.

    Batch normalization is in inference mode. Only the head has dropout, so the rest is computed only once. All images
    have the same masks, so that the scores of one depend neither on its row nor on its batch.

    Args:
      head: a network's; without dropout in it, the deviation is zero.
      pooled: the network's `pooled_features` of the images.
      key: draws the masks.
      passes: number of masks; the pathology models were calibrated with 30.
      scores: what the logits mean.
    """

    def once(key: PRNGKeyArray, features: Float[Array, " D"]) -> Float[Array, " K"]:
        (logits,) = head.classify(features[None], train=False, drop=True, rngs=nnx.Rngs(dropout=key))
        return SCORES[scores](logits)

    of_images = jax.vmap(once, in_axes=(None, 0))
    drawn = jax.vmap(of_images, in_axes=(0, None))(jax.random.split(key, passes), pooled)
    return Uncertain(jnp.mean(drawn, axis=0), jnp.std(drawn, axis=0))
