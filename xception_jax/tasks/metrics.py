"""Metrics in addition to loss and accuracy, by name.

Shape legend: B batch, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Array, Float, Int

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry

# From logits [B, K] and labels [B] to a value per example [B], whose mean is reported.
Metric = Callable[[Float[Array, "B K"], Int[Array, " B"]], Float[Array, " B"]]

METRICS: Registry[Metric] = Registry("metric", {})
# Names already used by the standard metrics and the other columns.
TAKEN = ("loss", "top1", "top5", "gradient_norm", "learning_rate", "confidence", "label", "index", "mask")


def register_metric(name: str, function: Metric) -> Metric:
    """Registers your own metric under a name for configs.

    Args:
      name: any name without a colon.
      function: from logits [B, K] and labels [B] to a value per example [B].

    Returns:
      `function`.
    """
    return METRICS.register(name, function)


def find_metrics(names: Sequence[str]) -> Mapping[str, Metric]:
    """The metrics with these names, by the name they are reported under: the last part of the name.

    Raises:
      UserError: unknown metric, or the name it would be reported under is taken.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        reported = name.rpartition(":")[2]
        if reported in (*TAKEN, *metrics):
            raise UserError(
                f'metric "{name}" would be reported as "{reported}", which is already used; rename the function'
            )
        metrics[reported] = METRICS.find(name)
    return metrics
