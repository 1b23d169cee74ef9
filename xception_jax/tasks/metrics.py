"""Metrics in addition to loss and accuracy, by name.

Shape legend: B batch, K classes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array, Float

from xception_jax.errors import UserError
from xception_jax.extension.names import Registry, wanted
from xception_jax.tasks.task import FIGURES

# From logits [B, K] and labels, int [B] or float [B, K], to a value per example [B], whose mean is reported; options
# are keyword arguments.
Metric = Callable[..., Float[Array, " B"]]

METRICS: Registry[Metric] = Registry("metric", {})
# Names already used by figures, by columns of evaluations and by what training reports.
TAKEN = (
    *(*FIGURES, "ece", "gradient_norm", "learning_rate"),
    *("confidence", "logits", "label", "index", "mask"),
)


def register_metric(name: str, function: Metric) -> Metric:
    """Registers your own metric under a name for configs, in this process.

    Args:
      name: any name without a colon.
      function: from logits [B, K] and labels [B] to a value per example [B]; other parameters are settings of
        `config.user`.

    Returns:
      `function`.
    """
    return METRICS.register(name, function)


def reported_name(name: str) -> str:
    """What a metric of this name is reported as: the last part."""
    return name.rpartition(":")[2]


def find_metrics(names: Sequence[str], settings: Mapping[str, Any]) -> Mapping[str, Metric]:
    """The metrics with these names, by the name they are reported under: the last part of the name.

    Args:
      names: as in configs.
      settings: `config.user`, of which those are bound that a metric has parameters for.

    Raises:
      UserError: unknown metric, one that needs other settings, or the name it would be reported under is taken.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        reported = reported_name(name)
        if reported in (*TAKEN, *metrics):
            raise UserError(
                f'metric "{name}" would be reported as "{reported}", which is already used; rename the function'
            )
        metric = METRICS.find(name)
        metrics[reported] = functools.partial(metric, **wanted(metric, settings, 2, f'metric "{name}"', "user"))
    return metrics
