"""Average precision of each example, on a device.

Shape legend: B batch, K classes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def average_precision_at(logits: Float[Array, "B K"], targets: Float[Array, "B K"], k: int = 100) -> Float[Array, " B"]:
    """Average precision of the k highest scores of each example; `evaluation.analysis.average_precisions` on a device.

    Args:
      logits: of the classes.
      targets: 1, 0, or NaN if it is unknown, which is as if the class did not exist.
      k: number of predictions.

    Returns:
      0..1; NaN of an example without labels.
    """
    k = min(k, logits.shape[-1])
    known = ~jnp.isnan(targets)
    _, order = jax.lax.top_k(jnp.where(known, logits, -jnp.inf), k)
    hits = jnp.take_along_axis(jnp.where(known, targets, 0), order, axis=-1)
    precision = jnp.cumsum(hits, -1) / jnp.arange(1, k + 1, dtype=hits.dtype)[None]
    positives = jnp.minimum((targets > 0).sum(-1), k)
    found = (hits * precision).sum(-1) / jnp.maximum(positives, 1)
    return jnp.where(positives > 0, found, jnp.nan)
