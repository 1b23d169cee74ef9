"""Metrics beside loss and accuracy, by name.

Shape legend: B batch, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Array, Float, Int

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry

# From logits [B, K] and labels [B] to a figure of each example [B], of which the mean is reported.
Metric = Callable[[Float[Array, "B K"], Int[Array, " B"]], Float[Array, " B"]]

METRICS: Registry[Metric] = Registry("metric", {})
# What is reported of every run, and what else stands beside it.
TAKEN = ("loss", "top1", "top5", "gradient_norm", "learning_rate", "confidence", "label", "index", "mask")


def register_metric(name: str, function: Metric) -> Metric:
    """Adds a metric of your own, by a name that configs take.

    Args:
      name: any, without a colon.
      function: from logits [B, K] and labels [B] to a figure of each example [B].

    Returns:
      `function`.
    """
    return METRICS.register(name, function)


def find_metrics(names: Sequence[str]) -> Mapping[str, Metric]:
    """The metrics of these names, by what they are reported as: the last part of the name.

    Raises:
      UserError: there is no such metric, or what it is reported as is taken.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        reported = name.rpartition(":")[2]
        if reported in (*TAKEN, *metrics):
            raise UserError(f'metric "{name}" would be reported as "{reported}", which is taken; rename the function')
        metrics[reported] = METRICS.find(name)
    return metrics
