"""Every setting of a run, with its default. Settings are defined only here.

The files in `configs/` start from `default()` and change the settings of their experiment. A duration is a string with
a number and a unit: "500 steps", "2 epochs" or "3000000 examples"; evaluations and checkpoints may also be "never".

A setting that names a network, a data set, a loss, a metric, an augmentation or an optimizer may also name one of your
own: "package.module:function", see docs/extending.md. Options that only yours has are added to the same section
(`c.model.depth = 3`); settings that belong to none of the sections go into `c.user`.
"""

import difflib
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from xception_jax.errors import UserError, suggest
from xception_jax.extension.rules import Rule, check_ranges, fraction, not_negative, positive, share
from xception_jax.inputs.choices import INTERPOLATIONS, RESIZES
from xception_jax.inputs.spec import MAX_PIXELS, Decoding, InputSpec, Normalization
from xception_jax.workdir import small_files


def default() -> ConfigDict:
    """The default settings, from which all experiments start."""
    c = ConfigDict()
    c.seed = 0  # determines parameters, order of the data, augmentation and dropout
    c.image_size = 299  # pixels, height and width
    c.first_image_size = config_dict.placeholder(int)  # training begins with it, and grows by 32 pixels at a time
    c.grow_until = "0 epochs"  # when it reaches image_size
    c.batch_size = 32  # over all devices
    c.num_epochs = 100.0  # length of training; num_steps, or else num_examples, takes precedence if set
    c.num_steps = config_dict.placeholder(int)
    c.num_examples = config_dict.placeholder(int)
    c.patience = config_dict.placeholder(int)  # evaluations in a row that are not the best, which end training early

    c.model = m = ConfigDict()  # an option that is None has the model's default
    m.name = "xception"
    m.weights = ""  # trained weights to start from: a file, a folder, a work directory, or a name such as "imagenet"
    m.num_classes = config_dict.placeholder(int)  # None: from the data
    m.dtype = "float32"  # computation dtype: float32 or bfloat16
    m.param_dtype = "float32"
    m.stem = config_dict.placeholder(str)  # "imagenet", or "small" for images of 32 pixels or more
    m.dropout = config_dict.placeholder(float)
    m.hidden = config_dict.placeholder(tuple)  # widths of fully connected layers before the logits
    m.hidden_norm = config_dict.placeholder(bool)  # xception: batch normalization after each of them
    m.hidden_dropout = config_dict.placeholder(float)  # xception: dropout rate of their inputs
    m.head = config_dict.placeholder(str)  # in place of `hidden`: "max_pool, dense 128 gelu, dropout 0.3"
    m.middle_blocks = config_dict.placeholder(int)  # xception: number of middle flow blocks, at most 8
    m.drop_path = config_dict.placeholder(float)  # the Xceptions: stochastic depth, rate in the last block
    m.output_stride = config_dict.placeholder(int)  # the Xceptions: 32, or 16 or 8 for a larger last map (atrous)
    m.width = config_dict.placeholder(float)  # multiplies the channel counts
    m.bn_epsilon = config_dict.placeholder(float)
    m.bn_momentum = config_dict.placeholder(float)
    m.residual = config_dict.placeholder(bool)  # xception
    m.segments = config_dict.placeholder(int)  # xception: of the channels of each 3x3 convolution; None: one a channel
    m.between = config_dict.placeholder(str)  # xception: none, relu or elu between depthwise and pointwise
    m.pool_padding = config_dict.placeholder(str)  # xception: same or symmetric
    m.flavour = config_dict.placeholder(str)  # inception_v3: torchvision, keras, paper or fid
    m.aux_head = config_dict.placeholder(bool)  # inception_v3

    # Of trained weights, what is trained further; see docs/finetuning.md.
    c.train_from = ""  # the first part that is trained: "block13", or "head"; those before it stay as they are
    c.fixed_statistics = False  # normalize with the running statistics in training, too, all but the head

    c.data = d = ConfigDict()
    d.name = "imagenet2012"  # a TFDS data set, or "folder", "table", "digits", "synthetic"
    d.path = ""  # folder: laid out as split/class/image; table: of files and labels, or what finetune takes
    d.columns = n = ConfigDict()  # table: the names of its columns; None: found by their usual names; "": there is none
    n.file = config_dict.placeholder(str)
    n.label = config_dict.placeholder(str)  # or several with commas between them: of 0 and 1, or of numbers
    n.split = config_dict.placeholder(str)
    n.group = config_dict.placeholder(str)  # images of one are on one side of a split that is made
    n.weight = config_dict.placeholder(str)  # of an image in training, 0 or more
    d.data_dir = ""  # TFDS: folder of the prepared data sets; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    d.label = ""  # TFDS: the feature with the labels: "labels", "objects" or, of a number, "age"; "": found
    d.absent = "negative"  # TFDS, several labels: what those are that an image does not list, negative or unknown
    d.train_split = "train"
    d.validation_split = "validation"  # evaluated during training; selects the best checkpoint
    d.test_split = "validation"  # evaluated at the end
    d.crop_area = (0.08, 1.0)  # training crops: fraction of the image's area
    d.crop_aspect = (3 / 4, 4 / 3)  # training crops: width over height
    d.flip = True  # training: mirror with probability 1/2
    # Training: "randaugment", "color_jitter", "erase", "histology", or your own function of a view and a random
    # generator; several are separated by commas, and done in this order.
    d.augment = ""
    d.magnitude = 9.0  # randaugment: mean strength of operations, 0 to 10
    d.magnitude_std = 0.5  # randaugment: its standard deviation
    d.num_operations = 2  # randaugment: drawn for each view, each done with probability 1/2
    d.jitter = 0.4  # color_jitter: most that brightness, contrast and saturation change, as a fraction
    d.erase_probability = 0.25  # erase: of a view
    d.repeats = 1  # training: how often each example is in a batch, in different views
    # The network's input. None: as its weights were trained; without weights, see inputs/spec.py.
    d.resize = config_dict.placeholder(str)  # evaluation, of other shapes than a square: squash, crop or pad
    d.crop_fraction = config_dict.placeholder(float)  # evaluation, crop: fraction of the side that is kept
    d.interpolation = config_dict.placeholder(str)  # bilinear, bicubic, area, lanczos or nearest
    d.mean = config_dict.placeholder(tuple)  # of red, green and blue, for pixels in 0..1
    d.std = config_dict.placeholder(tuple)
    d.standardize = config_dict.placeholder(bool)  # subtract each image's own mean, divide by its standard deviation
    d.stain_means = config_dict.placeholder(tuple)  # histology: target L*, a*, b* of Reinhard normalization; (): none
    d.stain_stds = config_dict.placeholder(tuple)
    # How files become pixels, see docs/pictures.md.
    d.orientation = config_dict.placeholder(bool)  # turn upright by EXIF data; None: all but data sets of TFDS
    d.background = (255, 255, 255)  # red, green and blue, 0..255, behind transparent pictures
    d.white = config_dict.placeholder(int)  # value of white, of pictures of more than 8 bits; None: by each picture
    d.max_pixels = MAX_PIXELS  # a picture with more of them is not decoded, but unreadable
    d.max_unreadable = 100  # unreadable images tolerated per split: skipped and listed; one more ends the run
    d.num_threads = 0  # decoding threads; 0: one per core
    d.num_examples = 1024  # synthetic: images per split
    d.num_classes = 1000  # synthetic

    c.learning_rate = 0.045  # the schedule's maximum
    c.schedule = s = ConfigDict()
    s.name = "exponential"  # exponential, cosine or constant
    s.warmup = "0 steps"  # linear, from 0; half of a training that is not longer than it
    s.decay_rate = 0.94  # exponential: factor every decay_every
    s.decay_every = "2 epochs"
    s.staircase = True  # exponential: stepwise instead of continuous
    s.final_fraction = 0.0  # cosine: final learning rate as a fraction of the maximum

    c.optimizer = o = ConfigDict()
    o.name = "sgd"  # sgd, rmsprop, adamw or lamb
    o.momentum = 0.9  # sgd, rmsprop; adamw, lamb: beta 1
    o.nesterov = False  # sgd
    o.decay = config_dict.placeholder(float)  # rmsprop: of the mean square, None: 0.9; adamw, lamb: beta 2, None: 0.999
    o.epsilon = config_dict.placeholder(float)  # None: rmsprop 1.0, adamw 1e-8, lamb 1e-6
    o.weight_decay = 1e-5  # on kernels only. sgd, rmsprop: added to the gradient (L2); adamw, lamb: decoupled
    o.clip_norm = config_dict.placeholder(float)  # maximum global norm of the gradient
    o.part_decay = 1.0  # factor of the learning rate from each part of the network to the one before it
    o.accumulate_steps = 1  # parts of a batch computed one at a time to save memory; each has its own batch statistics

    c.task = config_dict.placeholder(str)  # single_label, multi_label or regression; None: what the data is for
    # cross_entropy, binary_cross_entropy, squared_error, or your own function of logits and labels; None: the task's
    c.loss = config_dict.placeholder(str)
    c.metrics = ()  # your own functions of logits and labels, reported in addition to those of the task
    c.label_smoothing = 0.0  # probability mass spread evenly over all classes; of several labels: moved towards 1/2
    c.label_weights = ""  # binary_cross_entropy: a table with the columns class and weight, of labels in the loss
    c.target_threshold = config_dict.placeholder(float)  # binary_cross_entropy: labels above it are 1, the others 0
    c.aux_loss_weight = 0.4  # inception_v3 with an auxiliary head
    # Images mixed of two, and their labels: alpha of the distribution Beta(alpha, alpha) of the shares; 0: none.
    c.mixup = 0.0  # the mean of the two, so weighted
    c.cutmix = 0.0  # a box of one in the other
    c.mix_switch = 0.5  # probability of CutMix for each batch, if there is both
    c.average_decay = 0.9999  # Polyak averaging of weights and batch statistics; 0: none

    c.lowering = (
        "auto"  # of operators: "auto" is the platform's fastest; "reference" is plain lax, equal up to rounding
    )
    c.mesh = n = ConfigDict()  # sharding; results are equal up to rounding
    n.fully_sharded = False  # also shard parameters, averages and optimizer state over the devices, to save memory
    n.model = 1  # devices that share each fully connected layer of the head, for many classes and wide layers

    c.log_every = "50 steps"
    c.evaluation = e = ConfigDict()
    e.every = "1 epochs"  # of the validation split; "never": only the test split, at the end
    e.batch_size = config_dict.placeholder(int)  # None: that of training
    e.averaged = True  # evaluate averaged weights, as the paper does
    e.only_present = False  # single_label: choose among the classes that the split has, as for ImageNet-A and -R
    e.class_weights = ""  # multi_label: a table with the columns class and weight, for weighted_map_at_100
    c.checkpoint = k = ConfigDict()
    k.every = "1 epochs"  # the best and the final state are saved besides; "never": these alone
    k.keep_last = 3
    k.keep_best = 1
    # Of the validation split: a figure of the task (top1, top5; map_at_100, macro_average_precision, ...; r2, mae, ...;
    # see docs/guide.md), loss, or one of `metrics`; None: top1, map_at_100 or r2.
    k.best_metric = config_dict.placeholder(str)

    c.finetune = f = ConfigDict()  # read by `finetune` alone
    f.head = ""  # layers before the outputs: "dense 512 relu, dropout 0.5", see models/head.py; "": a linear head
    f.unfreeze = ""  # after the head, train from this part on ("block13", or "block1" for all); "": keep all frozen
    f.average_best = 0  # so many of the best checkpoints of the unfrozen network are averaged, too; 0: none
    f.balance = False  # weigh images so that all classes count alike, in the head and when unfrozen
    f.calibrate = True  # divide the logits by a temperature fitted on the validation split
    f.conformal_alpha = config_dict.placeholder(float)  # share of sets that may lack the true class; None: no sets
    f.uncertainty = False  # dropout at inference, 30 passes of the head, which must have dropout

    c.user = ConfigDict()  # your own settings, read only by your own code
    return c


SCHEMA = 2  # of config.json; version 1 had no "schema"
# Settings of earlier versions: their current names.
RENAMED = {"data.most_broken": "data.max_unreadable", "finetune.task": "task"}
# Settings that earlier versions did not have, and as what they did.
AS_BEFORE = {"data.resize": "crop", "task": "single_label", "loss": "cross_entropy", "checkpoint.best_metric": "top1"}
# Sections to which a user's network, data set or optimizer may add options, and the user's own section.
OPEN_SECTIONS = ("model.", "data.", "optimizer.", "user.")


# Settings that a resumed run may change: they affect what is written and shown; results change only by rounding.
MAY_CHANGE = (
    "finetune.",
    "lowering",
    "log_every",
    "evaluation.",
    "checkpoint.",
    "mesh.",
    "data.path",
    "data.data_dir",
    "data.num_threads",
    "data.validation_split",
    "data.test_split",
    "data.max_unreadable",
    "label_weights",  # a path
    "num_epochs",
    "num_steps",
    "num_examples",
    "patience",
)
# Settings that an evaluation may change in addition: its data and the preprocessing of images.
EVALUATION_MAY_CHANGE = (*MAY_CHANGE, "data.", "image_size", "batch_size", "task", "loss")


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Settings by dotted key, as JSON types."""
    return _flatten(json.loads(json.dumps(config.to_dict())), "")


def _flatten(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key in value for k, v in _flatten(value[key], f"{prefix}.{key}" if prefix else key).items()}


def to_json(config: ConfigDict) -> str:
    """The settings as JSON text; `read` is the inverse."""
    return json.dumps({"schema": SCHEMA, **config.to_dict()}, indent=2)


def read(path: Path) -> ConfigDict:
    """The config in a work directory's config.json, of this version or an earlier one.

    Raises:
      UserError: the file is missing or damaged, or has settings unknown to this version.
    """
    contents = small_files.read_json(path)
    if not isinstance(contents, dict) or not all(isinstance(contents.get(key), dict) for key in ("model", "data")):
        raise UserError(f"{path} is damaged: it is not a config. Delete it, or use another work directory")
    if (schema := contents.pop("schema", 1)) > SCHEMA:
        raise UserError(f"{path} was written by a later version of xception_jax (schema {schema}); update xception_jax")
    found = {key: _from_json(value) for key, value in _flatten(contents, "").items()}
    # What was left open under an earlier name was decided elsewhere: it is as before.
    settings = {RENAMED.get(k, k): v for k, v in found.items() if not (k in RENAMED and v is None)}
    settings = AS_BEFORE | settings
    config, own = default(), []
    for key, value in settings.items():
        if schema == 1 and not key.startswith(OPEN_SECTIONS) and not is_known(key):  # version 0.1.0 took any key
            own.append(key)
            key = f"user.{key}"
        if not key.startswith(OPEN_SECTIONS):
            check_key(key)
        _set(config, key, value)
    if own:
        print(f"{path} is of version 0.1.0: its own settings ({', '.join(own)}) are in config.user now")
    return config


def is_known(key: str) -> bool:
    """Whether `key` is the dotted name of a setting of every run."""
    return key in _usual_keys()


@functools.cache
def _usual_keys() -> frozenset[str]:
    return frozenset(flatten(default()))


def _set(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a setting by its dotted key; adds it if it does not exist."""
    *sections, name = key.split(".")
    for section in sections:
        if section not in config:
            config[section] = ConfigDict()
        config = config[section]
    if name in config:
        config.update({name: value})
    else:
        config[name] = value


def fill(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    """A copy of the config in which settings that are None are filled from `values`, by dotted key."""
    filled = config.copy_and_resolve_references()
    is_open = {key for key, value in flatten(config).items() if value is None}
    filled.update_from_flattened_dict({key: _from_json(values[key]) for key in is_open & values.keys()})
    return filled


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def model_options(config: ConfigDict) -> dict[str, Any]:
    """The options in `config.model` that are passed to the network's class. Options that are None keep its defaults.

    Raises:
      UserError: unknown network.
    """
    from xception_jax.models.registry import option_names  # imported here, as config files do not need the networks

    has, usual = option_names(config.model.name), default().model

    def given(name: str, value: Any) -> bool:
        # A user's network need not have our options, unless they were changed.
        return value is not None and (name in has or name not in usual or value != usual[name])

    others = ("name", "num_classes", "weights")
    return {name: value for name, value in config.model.items() if name not in others and given(name, value)}


def input_spec(config: ConfigDict) -> InputSpec:
    """The input specification of a run's network; the config must be a run's, with all settings resolved."""
    d = config.data
    normalization = Normalization(tuple(d.mean), tuple(d.std), d.standardize)
    stain = (tuple(d.stain_means), tuple(d.stain_stds)) if d.stain_means else None
    decoding = Decoding(d.orientation is not False, tuple(d.background), d.white, d.max_pixels)
    return InputSpec(config.image_size, d.crop_fraction, d.interpolation, normalization, stain, d.resize, decoding)


def check_same_run(workdir: Path, old: ConfigDict, new: ConfigDict, may_change: tuple[str, ...] = MAY_CHANGE) -> None:
    """Raises UserError, listing the differences, if the work directory's config is of another run than `new`."""
    a, b = flatten(old), flatten(new)
    changed = [
        f"{key}: {a.get(key)} -> {b.get(key)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not key.startswith(may_change)
    ]
    if changed:
        raise UserError(
            f"{workdir} belongs to a run with a different config ({'; '.join(changed)}); "
            "use another --workdir, or the settings that run was started with"
        )


def own_options(config: ConfigDict, section: str) -> dict[str, Any]:
    """Options that the user added to a section ("data" or "optimizer")."""
    return {name: value for name, value in config[section].items() if name not in default()[section]}


def check_key(key: str, declared: Iterable[str] = ()) -> None:
    """Raises UserError unless `key` is the dotted name of a setting or one of `declared`, or a new one of `user`."""
    if key in RENAMED:
        raise UserError(f'the config key "{key}" is now called "{RENAMED[key]}"')
    known = {*_usual_keys(), *declared}
    sections = {name.rsplit(".", i)[0] for name in known for i in (1, 2)} | {"user"}
    if key not in known and key not in sections and not _is_new(key, known):
        last = key.rsplit(".")[-1]
        alike = [name for name in sorted(known) if name.rsplit(".")[-1] == last]
        hint = f'did you mean "config.{alike[0]}"?' if len(alike) == 1 else suggest(key, alike or known)
        if "did you mean" not in hint:
            hint = f"settings of your own go into config.user: config.user.{last}"
        raise UserError(f'the config has no key "{key}"; {hint}')


def _is_new(key: str, known: Iterable[str]) -> bool:
    """Whether `key` adds a setting of the user's own, and is not one of those that is mistyped."""
    section, _, name = key.partition(".")
    own = [other.removeprefix("user.") for other in known if other.startswith("user.")]
    return section == "user" and name.isidentifier() and not difflib.get_close_matches(name, own)


def _check_values(value: Any, key: str) -> None:
    """Raises UserError if config.json cannot hold a value, or part of it, as it is."""
    if isinstance(value, dict):
        for name, part in value.items():
            _check_values(part, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_values(part, key)
    elif not isinstance(value, str | bool | int | float | None) or value != value:
        raise UserError(
            f"{key} is {value!r}, which config.json cannot hold; it holds numbers, texts, True, False, None, and "
            "tuples and sections of these"
        )


# Of settings by themselves: whether a value is allowed, and what it must be. None always is. Those of the networks'
# options are in `models.ranges`.
RULES: dict[str, Rule] = {
    "seed": (lambda v: 0 <= v < 2**32, "0 to 2**32 - 1"),
    "image_size": (positive, "a positive number of pixels"),
    "first_image_size": (positive, "a positive number of pixels"),
    "batch_size": (positive, "a positive number of images"),
    "num_epochs": (positive, "positive"),
    "num_steps": (positive, "positive"),
    "num_examples": (positive, "positive"),
    "patience": (positive, "a positive number of evaluations"),
    "model.num_classes": (lambda v: v > 1, "2 or more"),
    "model.dtype": (lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "model.param_dtype": (lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
    "data.crop_fraction": (share, "above 0 and at most 1"),
    "data.crop_area": (lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, "two fractions, (smallest, largest)"),
    "data.crop_aspect": (lambda v: len(v) == 2 and 0 < v[0] <= v[1], "two ratios, (smallest, largest)"),
    "data.resize": (lambda v: v in RESIZES, f"one of {', '.join(RESIZES)}"),
    "data.interpolation": (lambda v: v in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
    "data.stain_means": (lambda v: len(v) in (0, 3), "three numbers, of L*, a* and b*, or none"),
    "data.stain_stds": (lambda v: len(v) in (0, 3), "three numbers, of L*, a* and b*, or none"),
    "data.mean": (lambda v: len(v) == 3, "three numbers, of red, green and blue"),
    "data.std": (lambda v: len(v) == 3 and min(v) > 0, "three positive numbers, of red, green and blue"),
    "data.background": (lambda v: len(v) == 3 and all(0 <= c <= 255 for c in v), "red, green and blue, 0 to 255"),
    "data.magnitude": (lambda v: 0 <= v <= 10, "from 0 to 10"),
    "data.magnitude_std": (not_negative, "0 or more"),
    "data.num_operations": (positive, "a positive number of operations"),
    "data.jitter": (not_negative, "0 or more"),
    "data.erase_probability": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "data.repeats": (positive, "a positive number of views"),
    "data.white": (positive, "positive"),
    "data.max_pixels": (positive, "positive"),
    "data.max_unreadable": (not_negative, "0 or more"),
    "data.num_threads": (not_negative, "0 or more"),
    "data.num_examples": (positive, "positive"),
    "data.num_classes": (lambda v: v > 1, "2 or more"),
    "learning_rate": (not_negative, "0 or more"),
    "schedule.decay_rate": (positive, "positive"),
    "optimizer.momentum": (fraction, "from 0 to below 1"),
    "optimizer.decay": (fraction, "from 0 to below 1"),
    "optimizer.epsilon": (positive, "positive"),
    "optimizer.weight_decay": (not_negative, "0 or more"),
    "optimizer.clip_norm": (positive, "positive"),
    "optimizer.part_decay": (share, "above 0 and at most 1"),
    "optimizer.accumulate_steps": (positive, "positive"),
    "label_smoothing": (fraction, "from 0 to below 1"),
    "target_threshold": (fraction, "from 0 to below 1"),
    "aux_loss_weight": (not_negative, "0 or more"),
    "mixup": (not_negative, "0 or more"),
    "cutmix": (not_negative, "0 or more"),
    "mix_switch": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "average_decay": (fraction, "from 0 to below 1"),
    "mesh.model": (positive, "a positive number of devices"),
    "evaluation.batch_size": (positive, "a positive number of images"),
    "checkpoint.keep_last": (positive, "1 or more"),
    "checkpoint.keep_best": (not_negative, "0 or more"),
    "finetune.conformal_alpha": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "finetune.average_best": (lambda v: v == 0 or v > 1, "2 or more, or 0"),
}


def validate(config: ConfigDict) -> None:
    """Raises UserError if a setting is unknown or out of range; checks that need data or devices are made elsewhere."""
    from xception_jax.models.ranges import RANGES  # imported here, as config files do not need them
    from xception_jax.tasks.task import find_task

    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the config is a {type(config).__name__}; it must be a ConfigDict, as a config file's get_config() returns"
        )
    _check_values(config.to_dict(), "config")
    settings = flatten(config)
    for key in settings:
        if not key.startswith(OPEN_SECTIONS):
            check_key(key)
    options = {f"model.{name}": rule for name, rule in RANGES.items()}
    check_ranges(settings, options | RULES, prefix="config.")
    if config.task is not None:
        find_task(config.task)
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
    """Raises UserError if settings that are allowed by themselves contradict each other."""
    settings = flatten(config)
    for key, limit in (("first_image_size", "image_size"), ("data.repeats", "batch_size")):
        value, most = settings[key], settings[limit]
        if None not in (value, most) and value > most:
            raise UserError(f"config.{key} is {value}; it must be at most {limit} ({most})")
    if config.data.resize in ("squash", "pad") and config.data.crop_fraction not in (None, 1):
        raise UserError(
            f'config.data.resize is "{config.data.resize}", which shows the whole image, but config.data.crop_fraction '
            f'is {config.data.crop_fraction}; set it to 1, or config.data.resize to "crop"'
        )
    if (config.mixup or config.cutmix) and config.batch_size % 2:
        raise UserError(
            f"config.batch_size is {config.batch_size}, but config.mixup and config.cutmix mix pairs of images; make "
            "it even"
        )
