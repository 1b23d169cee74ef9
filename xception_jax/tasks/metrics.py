"""Metrics in addition to loss and accuracy, by name.

Shape legend: B batch, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry

# From logits [B, K] and labels, int [B] or float [B, K], to a value per example [B], whose mean is reported.
Metric = Callable[[Float[Array, "B K"], Num[Array, "B ..."]], Float[Array, " B"]]

METRICS: Registry[Metric] = Registry("metric", {})
# Names already used by columns of evaluations and by what training reports.
TAKEN = (
    *("loss", "top1", "top5", "map_at_100", "mae", "gradient_norm", "learning_rate"),
    *("confidence", "logits", "label", "index", "mask"),
)


def register_metric(name: str, function: Metric) -> Metric:
    """Registers your own metric under a name for configs.

    Args:
      name: any name without a colon.
      function: from logits [B, K] and labels [B] to a value per example [B].

    Returns:
      `function`.
    """
    return METRICS.register(name, function)


def reported_name(name: str) -> str:
    """What a metric of this name is reported as: the last part."""
    return name.rpartition(":")[2]


def find_metrics(names: Sequence[str]) -> Mapping[str, Metric]:
    """The metrics with these names, by the name they are reported under: the last part of the name.

    Raises:
      UserError: unknown metric, or the name it would be reported under is taken.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        reported = reported_name(name)
        if reported in (*TAKEN, *metrics):
            raise UserError(
                f'metric "{name}" would be reported as "{reported}", which is already used; rename the function'
            )
        metrics[reported] = METRICS.find(name)
    return metrics


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
