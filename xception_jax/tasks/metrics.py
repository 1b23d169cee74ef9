"""Metrics in addition to loss and accuracy, by name.

Shape legend: B batch, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Array, Float, Num

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry
from xception_jax.tasks.task import FIGURES

# From logits [B, K] and labels, int [B] or float [B, K], to a value per example [B], whose mean is reported.
Metric = Callable[[Float[Array, "B K"], Num[Array, "B ..."]], Float[Array, " B"]]

METRICS: Registry[Metric] = Registry("metric", {})
# Names already used by figures, by columns of evaluations and by what training reports.
TAKEN = (
    *(*FIGURES, "ece", "gradient_norm", "learning_rate"),
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
