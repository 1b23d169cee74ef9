"""What a config describes: a network, its data and its devices. Nothing is computed here."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from xception_jax import config as config_lib
from xception_jax import ops
from xception_jax.data import Source, open_source
from xception_jax.data.augmentation import Augmentation, find_augmentations
from xception_jax.data.labelled.class_weights import read_class_weights
from xception_jax.data.sources.base import check_source
from xception_jax.data.sources.registry import as_published
from xception_jax.data.sources.relabelled import Relabelled
from xception_jax.errors import UserError, reason, suggest
from xception_jax.extension.names import name_of
from xception_jax.inputs.spec import InputSpec
from xception_jax.models import Backbone, build_network, check_options, variables
from xception_jax.models.layers import check_image_size
from xception_jax.models.variables import Weights
from xception_jax.parallel import distributed
from xception_jax.parallel.mesh import check_batch_size, data_mesh, state_shardings
from xception_jax.parallel.processes import primary
from xception_jax.pretrained import Pretrained, load
from xception_jax.tasks.losses import LOSSES, Loss, with_options
from xception_jax.tasks.metrics import Metric, find_metrics, reported_name
from xception_jax.tasks.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task, find_task, task_of
from xception_jax.terminal.console import say_once


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A validated config, and what follows from it.

    Attributes:
      config: the run's settings, including those determined by its weights and its task.
      pretrained: the weights that training starts from, or None, also if it resumes.
      open_split: opens a split of the data by its name, once; its labels are positions in `class_names`.
      task: what the network is to tell.
      class_names: of the network's logits.
      graphdef: the network's structure.
      abstract_weights: shapes and dtypes of its arrays.
      mesh: the devices.
      lowering: of operators.
      loss: a function of logits and labels, and of the options that it has parameters for.
      metrics: in addition to those of the task.
      label_weights: [K], of the labels in the training loss, or None.
      class_weights: [K], of the classes in the weighted MAP@100, or None.
    """

    config: ConfigDict
    pretrained: Pretrained | None
    open_split: Callable[[str], Source]
    task: Task
    class_names: tuple[str, ...]
    graphdef: nnx.GraphDef
    abstract_weights: Weights
    mesh: Mesh
    lowering: ops.Lowering
    loss: Loss
    metrics: Mapping[str, Metric]
    label_weights: tuple[float, ...] | None = None
    class_weights: tuple[float, ...] | None = None

    @property
    def source(self) -> Source:
        """The training split."""
        return self.open_split(self.config.data.train_split)

    @property
    def num_classes(self) -> int:
        """Width of the network's logits."""
        return len(self.class_names)

    @property
    def input(self) -> InputSpec:
        """The network's input specification; data sets as others use them keep their pixels, unless asked otherwise."""
        spec = config_lib.input_spec(self.config)
        if self.config.data.orientation is None and as_published(self.config.data.name):
            return dataclasses.replace(spec, decoding=dataclasses.replace(spec.decoding, orientation=False))
        return spec

    @property
    def augmentation(self) -> Augmentation:
        """The random transformations of training images."""
        d = self.config.data
        augment = find_augmentations(d.augment, {**self.config.user, **d})
        return Augmentation(tuple(d.crop_area), tuple(d.crop_aspect), d.flip, augment, d.repeats)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed of two."""
        return self.config.mixup > 0 or self.config.cutmix > 0

    @property
    def training_loss(self) -> Loss:
        """The training loss, with weights and label smoothing, unless mixing has smoothed the labels already."""
        c = self.config
        own = {"label_smoothing": 0.0 if self.mixes else c.label_smoothing, "target_threshold": c.target_threshold}
        own |= {} if self.label_weights is None else {"label_weights": self.label_weights}
        return with_options(self.loss, {**c.user, **own})

    @property
    def evaluation_loss(self) -> Loss:
        """The evaluation loss, without label smoothing and weights."""
        return with_options(self.loss, {**self.config.user, "label_smoothing": 0.0})

    @property
    def evaluation_batch_size(self) -> int:
        """Images per evaluation batch, over all devices."""
        size = self.config.evaluation.batch_size
        return self.config.batch_size if size is None else size

    def labels(self, size: int) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch's labels."""
        return jax.ShapeDtypeStruct((size, *self.task.shape(self.num_classes)), self.task.dtype)

    @functools.cached_property
    def weights_shardings(self) -> Weights:
        """The `NamedSharding` of each of the network's arrays."""
        return state_shardings(self.abstract_weights, self.mesh, fully_sharded=self.config.mesh.fully_sharded)


def create(
    config: ConfigDict,
    *,
    devices: Sequence[jax.Device] | None = None,
    platform: ops.Platform | None = None,
    source: Callable[[str], Source] | None = None,
    loss: Loss | None = None,
    class_names: Sequence[str] | None = None,
    resumed: ConfigDict | None = None,
) -> Experiment:
    """Checks a config against its data and the devices.

    Args:
      config: the settings.
      devices: None: all available ones.
      platform: of the devices if they are not attached; None: the default backend's.
      source: opens a split of the data by its name; replaces `config.data.name`.
      loss: replaces `config.loss`.
      class_names: of a trained network, to which those of each split are matched; None: those of the training split,
        which is not needed otherwise.
      resumed: the config of a run that has checkpoints: it says what followed from the weights that the run began with,
        which are not read again.

    Raises:
      UserError: what is wrong, and what to do.
    """
    config_lib.validate(config)
    distributed.check_joined()
    mesh = mesh_of(config, devices)
    if config.loss is not None and loss is None:
        LOSSES.find(config.loss)
    metrics = find_metrics(config.metrics, config.user)
    pretrained, config = starting_weights(config, resumed)
    given = {"data.name": source, "loss": loss}
    check_callable(given)
    config.update_from_flattened_dict({key: name_of(value) for key, value in given.items() if value is not None})
    # Report mistyped names before opening the data set; option values are checked when the network is built.
    check_options(config.model.name, config_lib.model_options(config))
    open_split = source or functools.partial(open_named, config, own_classes=class_names is not None)
    opened = functools.cache(lambda split: check_source(open_split(split), split))
    names = tuple(opened(config.data.train_split).class_names if class_names is None else class_names)
    if config.task:
        task = find_task(config.task)
    else:  # what has been trained says so, unless it is of an earlier version
        task = SINGLE_LABEL if class_names is not None else task_of(opened(config.data.train_split))
    config = for_task(config, task)
    loss_function = loss or LOSSES.find(config.loss)
    check_num_classes(config, task, names)
    graphdef, abstract_weights = abstract_model(config, len(names))
    check_images(config, graphdef, abstract_weights)
    lowering = ops.trusted(ops.Lowering(config.lowering, platform), config.model.dtype)
    experiment = Experiment(
        config, pretrained, functools.cache(lambda split: relabelled(opened(split), names, split, task)), task, names,
        graphdef, abstract_weights, mesh, lowering, loss_function, metrics,
        read_class_weights(config, "label_weights", names),
        read_class_weights(config, "evaluation.class_weights", names),
    )  # fmt: skip
    assert experiment.augmentation  # raises now if it is unknown
    check_figures(experiment)
    if experiment.mixes:
        check_mixes(experiment)
    return experiment


def check_callable(given: Mapping[str, Any]) -> None:
    """Raises UserError unless what is given from Python, by the setting that it replaces, can be called."""
    for key, value in given.items():
        if value is not None and not callable(value):
            raise UserError(
                f"in place of config.{key}, a {type(value).__name__} is given; give a function, or set config.{key} to "
                "a name"
            )


def mesh_of(config: ConfigDict, devices: Sequence[jax.Device] | None) -> Mesh:
    """The devices' mesh, by which batches can be divided.

    Raises:
      UserError: they cannot.
    """
    mesh = data_mesh(devices, model=config.mesh.model)
    check_batch_size("config.batch_size", config.batch_size, config.optimizer.accumulate_steps, mesh.size)
    if config.evaluation.batch_size is not None:
        check_batch_size("config.evaluation.batch_size", config.evaluation.batch_size, 1, mesh.size)
    return mesh


def starting_weights(config: ConfigDict, resumed: ConfigDict | None) -> tuple[Pretrained | None, ConfigDict]:
    """The weights that training starts from, or None; and the config with what they say."""
    weights, name = config.model.weights, config.model.name
    if weights and resumed and (weights, name) == (resumed.model.weights, resumed.model.name):
        return None, resolve(config, without_arrays(resumed))
    pretrained = load(weights, name, head=config.model.head) if weights else None
    return pretrained, resolve(config, pretrained)


def check_num_classes(config: ConfigDict, task: Task, names: Sequence[str]) -> None:
    """Raises UserError if there are too few classes, or others than the config says."""
    if len(names) < task.fewest:
        raise UserError(
            f'the training split "{config.data.train_split}" of {config.data.name} has {len(names)} classes '
            f"({', '.join(names) or 'none'}), but at least 2 are needed; in a folder, classes are SPLIT/CLASS/IMAGE"
        )
    if config.model.num_classes not in (None, len(names)):
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, but {config.data.name} has {len(names)} "
            "classes; set it to None to use the number of classes of the data"
        )


def check_figures(experiment: Experiment) -> None:
    """Raises UserError unless the loss and each metric are a figure of each example."""
    several, labels = experiment.num_classes + 1, experiment.labels(experiment.num_classes + 1)
    logits = jax.ShapeDtypeStruct((several, experiment.num_classes), jnp.float32)

    def in_letters(shape: Sequence[int]) -> str:
        return f"[{', '.join({several: 'B', experiment.num_classes: 'K'}.get(n, str(n)) for n in shape)}]"

    figures = {f'loss "{experiment.config.loss}"': experiment.evaluation_loss}
    figures |= {f'metric "{name}"': metric for name, metric in experiment.metrics.items()}
    for what, function in figures.items():
        try:
            found = jax.eval_shape(function, logits, labels)
            shape = getattr(found, "shape", None)
        except (TypeError, ValueError, IndexError) as e:
            raise UserError(
                f"{what} does not take logits, float32 [B, K], with labels, {labels.dtype} {in_letters(labels.shape)}: "
                f"{reason(e)}"
            ) from None
        if shape != (several,):
            returned = "no array" if shape is None else f"the shape {in_letters(shape)}"
            raise UserError(
                f"{what} returns {returned}, but [B] is needed: a figure of each of the B examples, not their mean "
                f"(K: {experiment.num_classes} classes or numbers)"
            )
        if what.startswith("loss") and not jnp.issubdtype(found.dtype, jnp.floating):
            raise UserError(f"{what} returns {found.dtype}, which has no gradient; a loss returns floats")


def check_mixes(experiment: Experiment) -> None:
    """Raises UserError unless the loss takes labels that are mixed of two images'."""
    config, several = experiment.config, jax.ShapeDtypeStruct((2, experiment.num_classes), jnp.float32)
    try:
        jax.eval_shape(experiment.training_loss, several, several)
    except (TypeError, ValueError, IndexError) as e:
        raise UserError(
            f'config.mixup and config.cutmix mix labels, float [B, K], which the loss "{config.loss}" does not take '
            f"({reason(e)}); set both to 0, or take another loss"
        ) from None
    if config.label_smoothing and experiment.task is REGRESSION:
        raise UserError("config.label_smoothing is for classes, not for numbers; set it to 0")


def for_task(config: ConfigDict, task: Task) -> ConfigDict:
    """A copy of the config in which settings that are None are filled from the task, where it defines them.

    Raises:
      UserError: a setting is for another task.
    """
    if config.loss is not None:
        task.check_loss(config.loss)
    if config.evaluation.class_weights and task is not MULTI_LABEL:
        raise UserError(
            f"config.evaluation.class_weights is for multi_label, but the task is {task.name}; leave it empty"
        )
    if config.evaluation.only_present and task is not SINGLE_LABEL:
        raise UserError(
            f"config.evaluation.only_present is for single_label, but the task is {task.name}; leave it False"
        )
    figures = [name for name in task.figures if config.evaluation.class_weights or not name.startswith("weighted")]
    best, asked = (*figures, "loss", *map(reported_name, config.metrics)), config.checkpoint.best_metric
    if asked is not None and asked not in best:
        raise UserError(f'unknown config.checkpoint.best_metric "{asked}"; {suggest(asked, best)}')
    decided = {"task": task.name, "loss": task.loss, "checkpoint.best_metric": task.figures[0]}
    return config_lib.fill(config, decided)


def relabelled(source: Source, class_names: Sequence[str], split: str, task: Task) -> Source:
    """A split with a run's labels.

    Raises:
      UserError: it is for another task, or has other classes.
    """
    if (other := task_of(source)) is not task:
        raise UserError(
            f'the task is {task.name}, but split "{split}" is for {other.name}: its images have {other.means}, not '
            f"{task.means}; choose other data, or another config.task"
        )
    return Relabelled(source, class_names, split)


def open_named(config: ConfigDict, split: str, *, own_classes: bool = False) -> Source:
    """Opens a split of the data set named by `config.data`, and says its remarks, if it has any.

    Its classes are the training split's, or its own.
    """
    settings = {**config.data, "image_size": config.image_size, "task": config.task, "seed": config.seed} | (
        {"train_split": split} if own_classes else {}
    )
    source = open_source(config.data.name, split, settings, config_lib.own_options(config, "data"))
    if primary():
        for remark in getattr(source, "remarks", ()):
            say_once(remark)
    return source


def without_arrays(config: ConfigDict) -> Pretrained:
    """The weights that a run began with, as far as its config says: all but their arrays."""
    options, spec = config_lib.model_options(config), config_lib.input_spec(config)
    return Pretrained(config.model.weights, config.model.name, options, 0, Weights({}, {}), spec)


def resolve(config: ConfigDict, pretrained: Pretrained | None) -> ConfigDict:
    """A copy of the config in which settings that are None are filled from the weights, where they define them.

    Who sets `crop_fraction` and no resize rule wants the image cropped.
    """
    spec, options = (pretrained.input, pretrained.options) if pretrained else (InputSpec(), {})
    resize = config.data.resize or ("crop" if config.data.crop_fraction is not None else spec.resize)
    decided = {
        "image_size": spec.image_size,
        "data.resize": resize,
        "data.crop_fraction": spec.crop_fraction if resize == "crop" else 1.0,
        "data.interpolation": spec.interpolation,
        "data.mean": spec.normalization.mean,
        "data.std": spec.normalization.std,
        "data.standardize": spec.normalization.standardize,
        "data.white": spec.decoding.white,
        "data.stain_means": spec.stain[0] if spec.stain else (),
        "data.stain_stds": spec.stain[1] if spec.stain else (),
    } | {f"model.{option}": value for option, value in options.items()}
    filled = config_lib.fill(config, decided)
    with filled.unlocked():  # options that only a network of one's own has
        filled.model.update({option: value for option, value in options.items() if option not in filled.model})
    return filled


def build_model(config: ConfigDict, num_classes: int) -> Backbone:
    """The network of `config.model`, with parameters initialised from the seed."""
    rngs = nnx.Rngs(config.seed)
    model = build_network(config.model.name, num_classes=num_classes, rngs=rngs, **config_lib.model_options(config))
    model.frozen = parts_before(model.parts, config.train_from)
    model.fixed_statistics = config.fixed_statistics
    return model


def parts_before(parts: tuple[str, ...], first: str, key: str = "train_from") -> tuple[str, ...]:
    """The parts of a network before the first that is trained; none if `first`, the setting `key`, is "".

    Raises:
      UserError: there is no such part.
    """
    if first and first not in parts:
        raise UserError(f'config.{key} is "{first}", which is not a part of the network; {suggest(first, parts)}')
    return parts[: parts.index(first)] if first else ()


def abstract_model(config: ConfigDict, num_classes: int) -> tuple[nnx.GraphDef, Weights]:
    """The network's structure and the shapes of its arrays."""
    return nnx.eval_shape(lambda: variables.split(build_model(config, num_classes)))


def check_images(config: ConfigDict, graphdef: nnx.GraphDef, weights: Weights) -> None:
    """Raises UserError if the images are too small for the network."""
    smallest = variables.merge(graphdef, weights).min_image_size
    least = config.first_image_size or config.image_size
    check_image_size((1, least, least, 3), smallest)
