"""A learning rate from a short trial of rising rates (L. N. Smith, arXiv 1506.01186, section 3.3; fastai's `lr_find`).

The trial starts as the run would: its weights, data, optimizer. Nothing of it is saved.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import optax
from ml_collections import ConfigDict

from xception_jax import experiment as experiment_lib
from xception_jax.data import UnreadableImages
from xception_jax.errors import TrainingError
from xception_jax.filesystem import table_files
from xception_jax.parallel.processes import primary
from xception_jax.training.loop import batches_on_devices
from xception_jax.training.recipe import create_recipe
from xception_jax.workdir import curves

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 200
SMOOTHING = 0.95  # weight of the old value in the moving average of the loss
DIVERGED = 4.0  # times the least smoothed loss: the trial ends
SETTLING = 10  # steps after which the moving average is more than a few batches' noise
FACTOR = 10.0  # the suggestion is so much below the rate of the least loss, where training is about to diverge


@dataclasses.dataclass(frozen=True)
class Trial:
    """The steps of a trial.

    Attributes:
      rates: of the learning rate, rising.
      losses: before each update, smoothed.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> int:
        """The step of the least loss, among those after SETTLING, if there are any."""
        first = min(SETTLING, len(self.losses) - 1)
        return min(range(first, len(self.losses)), key=lambda i: self.losses[i])

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate with the least loss; None if no rate lowered the loss."""
        return self.rates[self.best] / FACTOR if self.best > SETTLING else None


def rates() -> optax.Schedule:
    """The learning rate at each step: rising geometrically from LOWEST to HIGHEST."""
    return optax.exponential_decay(LOWEST, STEPS - 1, HIGHEST / LOWEST)


def smoothed(losses: Iterable[float]) -> Iterator[float]:
    """Exponential moving averages, corrected for their start at 0; ends where the loss diverges or is not finite."""
    average, least = 0.0, math.inf
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        corrected = average / (1 - SMOOTHING**count)
        least = min(least, corrected)
        if not math.isfinite(corrected) or corrected > DIVERGED * least:
            return
        yield corrected


def find_rate(config: ConfigDict, workdir: Path) -> Trial:
    """Runs the trial; writes rates.csv and rates.png into the work directory, whose run is left as it is.

    Raises:
      UserError: the config or the data is invalid, or matplotlib is not installed.
      TrainingError: the first loss is NaN or infinite.
    """
    figure, schedule = curves.new_figure((7, 4.5)), rates()
    recipe = create_recipe(experiment_lib.create(config)).with_schedule(schedule)
    experiment = recipe.experiment
    state = recipe.initial_state()
    broken = UnreadableImages(experiment.config.data.max_unreadable)

    def losses() -> Iterator[float]:
        nonlocal state
        for batch in itertools.islice(batches_on_devices(experiment, 0, broken), STEPS):
            state, metrics = recipe.train_step(state, batch)
            yield float(metrics["loss"])

    found = tuple(smoothed(losses()))
    if not found:
        raise TrainingError("the loss of the first batch is not finite, before anything is trained: look at the data")
    trial = Trial(tuple(float(schedule(step)) for step in range(len(found))), found)
    if primary():
        table_files.write_table(workdir / "rates.csv", {"learning_rate": trial.rates, "smoothed_loss": trial.losses})
        draw(trial, figure)
        curves.save(figure, workdir / "rates.png")
    return trial


def draw(trial: Trial, figure: Any) -> None:
    """Draws the loss by rate, with the suggestion."""
    axes = figure.subplots()
    axes.plot(trial.rates, trial.losses, color=curves.EVALUATION[0])
    if trial.suggestion is not None:
        axes.axvline(trial.suggestion, color=curves.EVALUATION[1], label=f"suggested: {trial.suggestion:.2g}")
        axes.legend(frameon=False)
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
