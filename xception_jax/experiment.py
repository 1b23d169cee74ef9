"""What a config means: its data, network, optimizer and lengths in steps. Nothing is computed here."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from xception_jax import config as config_lib
from xception_jax import ops
from xception_jax.data import Source, open_source
from xception_jax.errors import UserError
from xception_jax.models import check_options, create_model
from xception_jax.models.input_spec import InputSpec, input_spec
from xception_jax.models.layers import check_image_size
from xception_jax.parallel import distributed
from xception_jax.parallel.mesh import check_batch_size, data_mesh, state_shardings
from xception_jax.pretrained import Pretrained, fill, load, transplant
from xception_jax.training import state as train_state
from xception_jax.training.durations import in_steps
from xception_jax.training.optimizers import create_optimizer, create_schedule
from xception_jax.training.state import TrainState, Weights
from xception_jax.training.step import Batch, Metrics, TrainSettings, make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A checked config, and all that follows from it.

    Attributes:
      config: the run's settings, with those filled in that its weights decide.
      pretrained: the weights that training starts from, or None.
      source: the training split.
      num_classes: width of the network's logits.
      total_steps: length of training.
      graphdef: the network's structure.
      abstract_weights: shapes and dtypes of its arrays.
      schedule: learning rate by step.
      optimizer: what turns gradients into updates.
      mesh: the devices.
    """

    config: ConfigDict
    pretrained: Pretrained | None
    source: Source
    num_classes: int
    total_steps: int
    graphdef: nnx.GraphDef
    abstract_weights: Weights
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    mesh: Mesh

    @property
    def steps_per_epoch(self) -> float:
        """How many steps see as many pictures as the training split has."""
        return len(self.source) / self.config.batch_size

    @property
    def train_settings(self) -> TrainSettings:
        """The settings of the training step."""
        c = self.config
        return TrainSettings(
            c.seed,
            c.label_smoothing,
            c.aux_loss_weight,
            c.average_decay,
            c.optimizer.accumulate_steps,
            self.input.normalization,
        )

    @property
    def input(self) -> InputSpec:
        """What the network expects of its pictures."""
        return input_spec(self.config)

    @property
    def evaluation_batch_size(self) -> int:
        """Pictures that are evaluated at once, on all devices together."""
        size = self.config.evaluation.batch_size
        return self.config.batch_size if size is None else size

    def interval(self, key: str) -> int:
        """The number of steps, at least one, between two events of the setting `key`."""
        duration = config_lib.flatten(self.config)[key]
        steps = in_steps(duration, batch_size=self.config.batch_size, num_examples=len(self.source), key=key)
        return max(1, round(steps))

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices: a function of the seed, and of the weights to start from."""
        _, weights = train_state.split(build_model(self.config, self.num_classes))
        if self.pretrained is not None:
            trained, report = transplant(self.pretrained, self.abstract_weights)
            print(report)
            weights = fill(weights, trained)
        # From the host, where each of several processes has all of them.
        weights = jax.tree.map(np.asarray, weights)
        return jax.jit(self._state_with, out_shardings=self.state_shardings)(weights)

    def _state_with(self, weights: Weights) -> TrainState:
        return train_state.create(weights, self.optimizer, averaging=self.config.average_decay > 0)

    @functools.cached_property
    def train_step(self) -> jax.stages.Wrapped:
        """The training step, (state, batch) -> (state, metrics), compiled when first called."""
        return make_train_step(
            self.graphdef, self.optimizer, self.schedule, self.train_settings, self.mesh, self.state_shardings
        )

    def compiled_train_step(self) -> jax.stages.Compiled:
        """`train_step`, compiled now."""
        return self.train_step.lower(self.abstract_state, self.abstract_batch).compile()

    @property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch."""
        size, side = self.config.batch_size, self.config.image_size
        return {
            "image": jax.ShapeDtypeStruct((size, side, side, 3), np.uint8),
            "label": jax.ShapeDtypeStruct((size,), np.int32),
        }

    @functools.cached_property
    def eval_step(self) -> Callable[[Weights, Batch], Metrics]:
        """The evaluation step; all splits share it, so that it is compiled once."""
        return make_eval_step(
            self.graphdef, self.num_classes, self.mesh, self.input.normalization, self.state_shardings.weights
        )

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state."""
        return jax.eval_shape(self._state_with, self.abstract_weights)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """The `NamedSharding` of each array of the state."""
        return state_shardings(self.abstract_state, self.mesh, fully_sharded=self.config.mesh.fully_sharded)


def build_model(config: ConfigDict, num_classes: int) -> nnx.Module:
    """The network of `config.model`, its parameters drawn from the seed."""
    rngs = nnx.Rngs(config.seed)
    return create_model(config.model.name, num_classes=num_classes, rngs=rngs, **config_lib.model_options(config))


def create(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Checks a config against its data and the devices, by default all at hand, and sets the operators' lowering.

    Raises:
      UserError: what is wrong, and what to do.
    """
    config_lib.validate(config)
    ops.set_lowering(config.lowering)
    distributed.check_joined()
    mesh = data_mesh(devices, model=config.mesh.model)
    check_batch_size("config.batch_size", config.batch_size, config.optimizer.accumulate_steps, mesh.size)
    if config.evaluation.batch_size is not None:
        check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, 1, mesh.size)
    pretrained = load(config.model.weights, config.model.name) if config.model.weights else None
    config = resolve(config, pretrained)
    # Mistyped names should not wait for a data set to be opened; values are looked at when the network is built.
    check_options(config.model.name, config_lib.model_options(config))
    source = open_source(config.data, config.data.train_split, config.image_size)
    num_classes = len(source.class_names)
    if config.model.num_classes not in (None, num_classes):
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, but {config.data.name} has {num_classes} "
            "classes; leave it None to have as many as the data"
        )
    graphdef, abstract_weights = abstract_model(config, num_classes)
    check_pictures(config, graphdef, abstract_weights)

    to_steps = functools.partial(in_steps, batch_size=config.batch_size, num_examples=len(source))
    if config.num_steps is not None:
        total_steps = config.num_steps
    elif config.num_examples is not None:
        total_steps = round(to_steps(f"{config.num_examples} examples", key="num_examples"))
    else:
        total_steps = round(to_steps(f"{config.num_epochs} epochs", key="num_epochs"))
    if total_steps < 1:
        raise UserError("training would last less than one step; raise config.num_epochs or lower config.batch_size")
    schedule = create_schedule(config, total_steps=total_steps, in_steps=to_steps)
    experiment = Experiment(
        config, pretrained, source, num_classes, total_steps, graphdef, abstract_weights,
        schedule, create_optimizer(config, schedule), mesh,
    )  # fmt: skip
    for key in ("log_every", "evaluation.every", "checkpoint.every"):
        experiment.interval(key)
    return experiment


def resolve(config: ConfigDict, pretrained: Pretrained | None) -> ConfigDict:
    """A copy of the config in which the settings that are None have the weights' own values, where they have one."""
    spec, options = (pretrained.input, pretrained.options) if pretrained else (InputSpec(), {})
    decided = {
        "data.crop_fraction": spec.crop_fraction,
        "data.interpolation": spec.interpolation,
        "data.mean": spec.normalization.mean,
        "data.std": spec.normalization.std,
        "data.standardize": spec.normalization.standardize,
        "data.stain_means": spec.stain[0] if spec.stain else (),
        "data.stain_stds": spec.stain[1] if spec.stain else (),
    } | {f"model.{option}": value for option, value in options.items()}
    return config_lib.fill(config, decided)


def abstract_model(config: ConfigDict, num_classes: int) -> tuple[nnx.GraphDef, Weights]:
    """The network's structure, and the shapes of its arrays."""
    return nnx.eval_shape(lambda: train_state.split(build_model(config, num_classes)))


def check_pictures(config: ConfigDict, graphdef: nnx.GraphDef, weights: Weights) -> None:
    """Refuses pictures that are too small for the network."""
    smallest = train_state.merge(graphdef, weights).min_image_size
    check_image_size((1, config.image_size, config.image_size, 3), smallest)
