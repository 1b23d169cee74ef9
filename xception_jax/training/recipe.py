"""How an experiment is trained: optimizer, durations in steps, initial state and compiled step."""

import dataclasses
import functools

import jax
import numpy as np
import optax

from xception_jax import config as config_lib
from xception_jax.errors import UserError
from xception_jax.experiment import Experiment, build_model
from xception_jax.extension.names import parameters
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import state_shardings
from xception_jax.pretrained import fill, load, transplant
from xception_jax.training.durations import in_steps
from xception_jax.training.mixing import Mixing
from xception_jax.training.optimizers import OPTIMIZERS, by_part, create_optimizer, create_schedule
from xception_jax.training.resizing import image_sizes
from xception_jax.training.state import TrainState, create_state
from xception_jax.training.step import TrainSettings, make_train_step

NEVER = "never"
MAY_BE_NEVER = ("evaluation.every", "checkpoint.every")
# Settings that are the loss's and the optimizer's, if these have parameters for them.
OF_LOSSES = ("label_smoothing", "label_weights", "target_threshold")
OF_OPTIMIZERS = ("momentum", "nesterov", "decay", "epsilon", "weight_decay")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an experiment is trained.

    Attributes:
      experiment: what is trained.
      total_steps: length of training.
      schedule: learning rate by step.
      optimizer: turns gradients into updates.
    """

    experiment: Experiment
    total_steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def steps_per_epoch(self) -> float:
        """The number of steps that process as many images as the training split has."""
        return len(self.experiment.source) / self.experiment.config.batch_size

    def in_steps(self, key: str) -> float:
        """The duration set by `key`, in steps, not rounded; raises UserError if it is none."""
        return _in_steps(self.experiment, config_lib.flatten(self.experiment.config)[key], key)

    def interval(self, key: str) -> int | None:
        """The interval set by `key`, in steps, at least one; None: never, where `MAY_BE_NEVER` allows it.

        Raises:
          UserError: the setting is neither a duration above 0 nor an allowed "never".
        """
        duration = config_lib.flatten(self.experiment.config)[key]
        if duration == NEVER and key in MAY_BE_NEVER:
            return None
        steps = self.in_steps(key)
        if steps == 0:
            hint = f' or, for none during training, "{NEVER}"' if key in MAY_BE_NEVER else ""
            raise UserError(f'config.{key} is "{duration}"; write an interval above 0, such as "500 steps"{hint}')
        return max(1, round(steps))

    def with_schedule(self, schedule: optax.Schedule) -> "Recipe":
        """The same with another learning rate."""
        return dataclasses.replace(self, schedule=schedule, optimizer=_optimizer(self.experiment, schedule))

    @property
    def settings(self) -> TrainSettings:
        """The settings of the training step."""
        e, c = self.experiment, self.experiment.config
        return TrainSettings(
            seed=c.seed,
            task=e.task,
            loss=e.training_loss,
            metrics=e.metrics,
            aux_loss_weight=c.aux_loss_weight,
            average_decay=c.average_decay,
            accumulate_steps=c.optimizer.accumulate_steps,
            normalization=e.input.normalization,
            mixing=create_mixing(e),
            lowering=e.lowering,
        )

    def initial_state(self) -> TrainState:
        """The initial state, on the devices: a function of the seed and of the weights to start from."""
        e = self.experiment
        _, weights = variables.split(build_model(e.config, e.num_classes))
        pretrained = e.pretrained
        if pretrained is None and e.config.model.weights:  # it should have resumed, but no checkpoint is intact
            pretrained = load(e.config.model.weights, e.config.model.name, head=e.config.model.head)
        if pretrained is not None:
            trained, report = transplant(pretrained, e.abstract_weights)
            print(report, *(f"assumed: {line}" for line in pretrained.assumed), sep="\n")
            weights = fill(weights, trained)
        # From the host, where each process has all of them.
        weights = jax.tree.map(np.asarray, weights)
        return jax.jit(self._state_with, out_shardings=self.state_shardings)(weights)

    def _state_with(self, weights: Weights) -> TrainState:
        return create_state(weights, self.optimizer, averaging=self.experiment.config.average_decay > 0)

    @functools.cached_property
    def train_step(self) -> jax.stages.Wrapped:
        """The training step, (state, batch) -> (state, metrics), compiled on the first call."""
        e = self.experiment
        return make_train_step(e.graphdef, self.optimizer, self.schedule, self.settings, e.mesh, self.state_shardings)

    def compiled_train_step(self, image_size: int) -> jax.stages.Compiled:
        """`train_step`, compiled immediately for one size of images."""
        return self.train_step.lower(self.abstract_state, self.batch_of(image_size)).compile()

    @property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of the largest images."""
        return self.batch_of(self.experiment.config.image_size)

    def batch_of(self, side: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch of images with this side."""
        size = self.experiment.config.batch_size
        return {
            "image": jax.ShapeDtypeStruct((size, side, side, 3), np.uint8),
            "label": self.experiment.labels(size),
        }

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._state_with, self.experiment.abstract_weights)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """The `NamedSharding` of each array of the state."""
        e = self.experiment
        return state_shardings(self.abstract_state, e.mesh, fully_sharded=e.config.mesh.fully_sharded)


def create_recipe(experiment: Experiment, *, resumed: bool = False) -> Recipe:
    """Creates the recipe from an experiment's config, with checks.

    Args:
      experiment: what is trained.
      resumed: whether the run has checkpoints; version 0.1.0 ignored settings that its optimizer did not have.

    Raises:
      UserError: what is wrong, and what to do.
    """
    total_steps, schedule = length_and_schedule(experiment)
    recipe = Recipe(experiment, total_steps, schedule, _optimizer(experiment, schedule))
    image_sizes(experiment)  # raises now
    if not resumed:
        check_used(experiment)
    for key in ("log_every", "evaluation.every", "checkpoint.every"):
        recipe.interval(key)
    return recipe


def check_used(experiment: Experiment) -> None:
    """Raises UserError for a setting that was changed, but that the loss or the optimizer has no parameter for."""
    config, usual = experiment.config, config_lib.flatten(config_lib.default())
    settings = config_lib.flatten(config)
    of_losses = [name for name in OF_LOSSES if not (experiment.mixes and name == "label_smoothing")]  # mixing smooths
    optimizer = OPTIMIZERS.find(config.optimizer.name)
    for what, function, section, names in (
        (f'loss "{config.loss}"', experiment.loss, "", of_losses),
        (f'optimizer "{config.optimizer.name}"', optimizer, "optimizer.", OF_OPTIMIZERS),
    ):
        for name in names:
            key = f"{section}{name}"
            if settings[key] != usual[key] and name not in parameters(function):
                raise UserError(
                    f'{what} has no option "{name}", but config.{key} is {settings[key]!r}; leave it at {usual[key]!r}'
                )


def _optimizer(experiment: Experiment, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of a config, with a learning rate by step."""
    config = experiment.config
    optimizer = create_optimizer(dict(config.optimizer), schedule, config_lib.own_options(config, "optimizer"))
    model = variables.merge(experiment.graphdef, experiment.abstract_weights)
    return by_part(optimizer, model.parts, model.frozen, config.optimizer.part_decay)


def create_mixing(experiment: Experiment) -> Mixing | None:
    """How an experiment's batches are mixed, or None."""
    c = experiment.config
    if not experiment.mixes:
        return None
    return Mixing(experiment.num_classes, c.mixup, c.cutmix, c.mix_switch, c.label_smoothing)


def length_and_schedule(experiment: Experiment) -> tuple[int, optax.Schedule]:
    """The number of steps of training, and the learning rate by step.

    Raises:
      UserError: what is wrong, and what to do.
    """
    config, to_steps = experiment.config, functools.partial(_in_steps, experiment)
    if config.num_steps is not None:
        total_steps = config.num_steps
    elif config.num_examples is not None:
        total_steps = round(to_steps(f"{config.num_examples} examples", key="num_examples"))
    else:
        total_steps = round(to_steps(f"{config.num_epochs} epochs", key="num_epochs"))
    if total_steps < 1:
        raise UserError("training would last less than one step; raise config.num_epochs or lower config.batch_size")
    return total_steps, create_schedule(config, total_steps=total_steps, in_steps=to_steps)


def _in_steps(experiment: Experiment, duration: str, key: str) -> float:
    return in_steps(duration, batch_size=experiment.config.batch_size, num_examples=len(experiment.source), key=key)
