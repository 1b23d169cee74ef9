"""Every setting of a run, with its default: the one place where they are named.

The files in `configs/` start from `default()` and change what their experiment changes. A duration is a text, a number
and a unit: "500 steps", "2 epochs" or "3000000 examples".

Where a setting names a network, a data set, a loss, a metric, an augmentation or an optimizer, it may also name one of
your own: "package.module:function", see docs/extending.md. Options that yours has and ours do not are added to the same
section (`c.model.depth = 3`), settings that belong to nothing here to `c.user`.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from xception_jax.errors import UserError, suggest
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.workdir import atomic


def default() -> ConfigDict:
    """The settings that all experiments start from."""
    c = ConfigDict()
    c.seed = 0  # parameters, order of the data, augmentation and dropout all follow from it
    c.image_size = 299  # pixels, height and width
    c.batch_size = 32  # of all devices together
    c.num_epochs = 100.0  # length of training; num_steps or num_examples, where set, are used instead
    c.num_steps = config_dict.placeholder(int)
    c.num_examples = config_dict.placeholder(int)

    c.model = m = ConfigDict()  # an option left None has the model's own default
    m.name = "xception"
    m.weights = ""  # trained weights to start from: a file, a folder, a work directory, or a name such as "imagenet"
    m.num_classes = config_dict.placeholder(int)  # None: as many as the data has
    m.dtype = "float32"  # what layers compute in: float32 or bfloat16
    m.param_dtype = "float32"
    m.stem = config_dict.placeholder(str)  # "imagenet", or "small" for pictures from 32 pixels
    m.dropout = config_dict.placeholder(float)
    m.hidden = config_dict.placeholder(tuple)  # widths of fully connected layers before the logits
    m.hidden_norm = config_dict.placeholder(bool)  # xception: batch normalization after each of them
    m.hidden_dropout = config_dict.placeholder(float)  # xception: share of each of their inputs dropped in training
    m.middle_blocks = config_dict.placeholder(int)  # xception: of the middle flow's eight
    m.drop_path = config_dict.placeholder(float)  # the Xceptions: stochastic depth, share dropped in the last block
    m.output_stride = config_dict.placeholder(int)  # the Xceptions: 32; 16 or 8 have larger last maps (atrous)
    m.width = config_dict.placeholder(float)  # multiplies the channel counts
    m.bn_epsilon = config_dict.placeholder(float)
    m.bn_momentum = config_dict.placeholder(float)
    m.residual = config_dict.placeholder(bool)  # xception
    m.between = config_dict.placeholder(str)  # xception: none, relu or elu between depthwise and pointwise
    m.pool_padding = config_dict.placeholder(str)  # xception: same or symmetric
    m.flavour = config_dict.placeholder(str)  # inception_v3: torchvision, keras or paper
    m.aux_head = config_dict.placeholder(bool)  # inception_v3

    c.data = d = ConfigDict()
    d.name = "imagenet2012"  # a TFDS data set, or "folder", "digits", "synthetic"
    d.path = ""  # folder: it holds split/class/picture
    d.data_dir = ""  # TFDS: where prepared data sets are; "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    d.train_split = "train"
    d.validation_split = "validation"  # evaluated on the way; chooses the best checkpoint
    d.test_split = "validation"  # evaluated at the end
    d.crop_area = (0.08, 1.0)  # training crops: share of the picture's area
    d.crop_aspect = (3 / 4, 4 / 3)  # training crops: width over height
    d.flip = True  # training: mirror half of the pictures
    d.augment = ""  # training: a function of your own, of a view and a random generator; "": none
    # What a network expects of its pictures. None: as its weights were trained; without weights, see inputs.py.
    d.crop_fraction = config_dict.placeholder(float)  # evaluation: share of the side that the central crop keeps
    d.interpolation = config_dict.placeholder(str)  # bilinear, bicubic or area
    d.mean = config_dict.placeholder(tuple)  # of red, green and blue, where pixels are 0..1
    d.std = config_dict.placeholder(tuple)
    d.standardize = config_dict.placeholder(bool)  # subtract each picture's own mean, divide by its deviation
    d.stain_means = config_dict.placeholder(tuple)  # histology: L*, a*, b* that tiles are given (Reinhard); (): none
    d.stain_stds = config_dict.placeholder(tuple)
    d.max_unreadable = 100  # pictures of a split that may be unreadable: skipped, named, counted; one more ends the run
    d.num_threads = 0  # decoding threads; 0: one a core
    d.num_examples = 1024  # synthetic: pictures a split
    d.num_classes = 1000  # synthetic

    c.learning_rate = 0.045  # the highest of the schedule
    c.schedule = s = ConfigDict()
    s.name = "exponential"  # exponential, cosine or constant
    s.warmup = "0 steps"  # linear, from 0
    s.decay_rate = 0.94  # exponential: factor every decay_every
    s.decay_every = "2 epochs"
    s.staircase = True  # exponential: in steps, not continuously
    s.final_fraction = 0.0  # cosine: of the learning rate, reached at the end

    c.optimizer = o = ConfigDict()
    o.name = "sgd"  # sgd, rmsprop, adamw or lamb
    o.momentum = 0.9  # sgd, rmsprop; adamw, lamb: beta 1
    o.nesterov = False  # sgd
    o.decay = config_dict.placeholder(float)  # rmsprop: of the mean square, None: 0.9; adamw, lamb: beta 2, None: 0.999
    o.epsilon = config_dict.placeholder(float)  # None: rmsprop 1.0, adamw 1e-8, lamb 1e-6
    o.weight_decay = 1e-5  # on kernels only. sgd, rmsprop: added to the gradient (L2); adamw, lamb: decoupled
    o.clip_norm = config_dict.placeholder(float)  # largest norm of the whole gradient
    o.accumulate_steps = 1  # parts that a batch is worked on in, to save memory; each has its own batch statistics

    c.loss = "cross_entropy"  # or a function of your own, of logits and labels
    c.metrics = ()  # functions of your own, likewise, that are reported beside loss, top-1 and top-5
    c.label_smoothing = 0.0  # probability mass spread evenly over all classes
    c.aux_loss_weight = 0.4  # inception_v3 with an auxiliary head
    c.average_decay = 0.9999  # Polyak averaging of weights and batch statistics; 0: none

    c.lowering = "auto"  # of operators: the platform's fastest; "reference" is plain lax, the same to rounding
    c.mesh = n = ConfigDict()  # which device holds what; the result is the same to rounding
    n.fully_sharded = False  # split parameters, averages and optimizer state over the devices too, to save memory
    n.model = 1  # devices that share each fully connected layer of the head: for many classes and wide hidden layers

    c.log_every = "50 steps"
    c.evaluation = e = ConfigDict()
    e.every = "1 epochs"
    e.batch_size = config_dict.placeholder(int)  # None: as in training
    e.averaged = True  # evaluate averaged weights, as the paper does
    c.checkpoint = k = ConfigDict()
    k.every = "1 epochs"
    k.keep_last = 3
    k.keep_best = 1
    k.best_metric = "top1"  # of the validation split: top1, top5, one of `metrics` (the highest), or loss (the lowest)

    c.user = ConfigDict()  # settings of your own; nothing here reads them but what you wrote
    return c


SCHEMA = 2  # of config.json; 1 had no "schema"
# Settings that earlier versions had: what they are called now.
RENAMED = {"data.most_broken": "data.max_unreadable"}
# Sections to which a network, a data set or an optimizer of the user's may add options, and the user's own.
OPEN_SECTIONS = ("model.", "data.", "optimizer.", "user.")


# What a resumed run may change: it alters what is written or looked at, not what is computed but for rounding.
MAY_CHANGE = (
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
    "num_epochs",
    "num_steps",
    "num_examples",
)
# What an evaluation may, besides: its own data and how pictures are seen.
EVALUATION_MAY_CHANGE = (*MAY_CHANGE, "data.", "image_size", "batch_size")


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Settings by dotted key, in JSON's types."""
    return _flatten(json.loads(json.dumps(config.to_dict())), "")


def _flatten(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key in value for k, v in _flatten(value[key], f"{prefix}.{key}" if prefix else key).items()}


def to_json(config: ConfigDict) -> str:
    """The settings as JSON text; `read` takes it back."""
    return json.dumps({"schema": SCHEMA, **config.to_dict()}, indent=2)


def read(path: Path) -> ConfigDict:
    """The config in a work directory's config.json, of this version or an earlier one.

    Raises:
      UserError: the file is missing, damaged, or has settings this version does not know.
    """
    contents = atomic.read_json(path)
    if not isinstance(contents, dict) or not all(isinstance(contents.get(key), dict) for key in ("model", "data")):
        raise UserError(f"{path} is damaged: it is not a config; delete it, or use another work directory")
    if (schema := contents.pop("schema", 1)) > SCHEMA:
        raise UserError(f"{path} was written by a later version of xception_jax (schema {schema}); update xception_jax")
    settings = {RENAMED.get(key, key): _from_json(value) for key, value in _flatten(contents, "").items()}
    config = default()
    for key, value in settings.items():
        if not key.startswith(OPEN_SECTIONS):
            check_key(key)
        _set(config, key, value)
    return config


def _set(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a setting by its dotted key, also one that there was not."""
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
    """A copy of the config in which the settings that are None have the values of their dotted keys, if there are."""
    filled = config.copy_and_resolve_references()
    is_open = {key for key, value in flatten(config).items() if value is None}
    filled.update_from_flattened_dict({key: _from_json(values[key]) for key in is_open & values.keys()})
    return filled


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def model_options(config: ConfigDict) -> dict[str, Any]:
    """Of `config.model`, what the network's class is given. Options left None keep the network's defaults.

    Raises:
      UserError: an unknown network.
    """
    from xception_jax.models.registry import option_names  # networks; a config file needs none

    has, usual = option_names(config.model.name), default().model

    def given(name: str, value: Any) -> bool:
        # A network of the user's need not have our options, as long as they are left as they are.
        return value is not None and (name in has or name not in usual or value != usual[name])

    others = ("name", "num_classes", "weights")
    return {name: value for name, value in config.model.items() if name not in others and given(name, value)}


def input_spec(config: ConfigDict) -> InputSpec:
    """What the network of a run expects of its pictures; the config must be a run's, with nothing left open."""
    d = config.data
    normalization = Normalization(tuple(d.mean), tuple(d.std), d.standardize)
    stain = (tuple(d.stain_means), tuple(d.stain_stds)) if d.stain_means else None
    return InputSpec(config.image_size, d.crop_fraction, d.interpolation, normalization, stain)


def check_same_run(workdir: Path, old: ConfigDict, new: ConfigDict, may_change: tuple[str, ...] = MAY_CHANGE) -> None:
    """Raises UserError, with what differs, where the work directory's config and another are not of the same run."""
    a, b = flatten(old), flatten(new)
    changed = [
        f"{key}: {a.get(key)} -> {b.get(key)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not key.startswith(may_change)
    ]
    if changed:
        raise UserError(
            f"{workdir} belongs to a run with another config ({'; '.join(changed)}); "
            "give another --workdir, or the settings it was started with"
        )


def own_options(config: ConfigDict, section: str) -> dict[str, Any]:
    """Options that the user has added to a section: "data", "optimizer"."""
    return {name: value for name, value in config[section].items() if name not in default()[section]}


def check_key(key: str, declared: Iterable[str] = ()) -> None:
    """Raises UserError where no setting has the dotted name `key`, and it is not one of those `declared` besides."""
    if key in RENAMED:
        raise UserError(f'the config key "{key}" is now called "{RENAMED[key]}"')
    known = {*flatten(default()), *declared}
    sections = {name.rsplit(".", i)[0] for name in known for i in (1, 2)} | {"user"}
    if key not in known and key not in sections:
        last = key.rsplit(".")[-1]
        alike = [name for name in sorted(known) if name.rsplit(".")[-1] == last]
        hint = f'did you mean "config.{alike[0]}"?' if len(alike) == 1 else suggest(key, alike or known)
        raise UserError(f'the config has no key "{key}"; {hint}')


def validate(config: ConfigDict) -> None:
    """Raises UserError where a setting is unknown or out of its range; what needs data or devices is checked there."""
    for key in flatten(config):
        if not key.startswith(OPEN_SECTIONS):
            check_key(key)
    positive: Callable[[Any], bool] = lambda v: v > 0  # noqa: E731
    fraction: Callable[[Any], bool] = lambda v: 0 <= v < 1  # noqa: E731
    whole_share: Callable[[Any], bool] = lambda v: 0 < v <= 1  # noqa: E731
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        ("seed", lambda v: 0 <= v < 2**32, "0 to 2**32 - 1"),
        ("image_size", positive, "a positive number of pixels"),
        ("batch_size", positive, "a positive number of pictures"),
        ("num_epochs", positive, "positive"),
        ("num_steps", positive, "positive"),
        ("num_examples", positive, "positive"),
        ("model.dropout", fraction, "from 0 to below 1"),
        ("model.middle_blocks", lambda v: 0 <= v <= 8, "from 0 to 8"),
        ("model.drop_path", fraction, "from 0 to below 1"),
        ("model.output_stride", lambda v: v in (32, 16, 8), "32, 16 or 8"),
        ("model.width", positive, "positive"),
        ("model.num_classes", lambda v: v > 1, "2 or more"),
        ("model.bn_epsilon", positive, "positive"),
        ("model.bn_momentum", fraction, "from 0 to below 1"),
        ("model.dtype", lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
        ("model.param_dtype", lambda v: v in ("float32", "bfloat16"), '"float32" or "bfloat16"'),
        ("data.crop_fraction", whole_share, "above 0, to 1"),
        ("data.crop_area", lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, "two shares, (smallest, largest)"),
        ("data.crop_aspect", lambda v: len(v) == 2 and 0 < v[0] <= v[1], "two ratios, (smallest, largest)"),
        ("data.interpolation", lambda v: v in ("bilinear", "bicubic", "area"), '"bilinear", "bicubic" or "area"'),
        ("data.stain_means", lambda v: len(v) in (0, 3), "three numbers, of L*, a* and b*, or none"),
        ("data.stain_stds", lambda v: len(v) in (0, 3), "three numbers, of L*, a* and b*, or none"),
        ("data.mean", lambda v: len(v) == 3, "three numbers, of red, green and blue"),
        ("data.std", lambda v: len(v) == 3 and min(v) > 0, "three positive numbers, of red, green and blue"),
        ("data.max_unreadable", lambda v: v >= 0, "0 or more"),
        ("data.num_threads", lambda v: v >= 0, "0 or more"),
        ("data.num_examples", positive, "positive"),
        ("data.num_classes", lambda v: v > 1, "2 or more"),
        ("learning_rate", lambda v: v >= 0, "0 or more"),
        ("schedule.decay_rate", positive, "positive"),
        ("optimizer.momentum", fraction, "from 0 to below 1"),
        ("optimizer.decay", fraction, "from 0 to below 1"),
        ("optimizer.epsilon", positive, "positive"),
        ("optimizer.weight_decay", lambda v: v >= 0, "0 or more"),
        ("optimizer.clip_norm", positive, "positive"),
        ("optimizer.accumulate_steps", positive, "positive"),
        ("label_smoothing", fraction, "from 0 to below 1"),
        ("aux_loss_weight", lambda v: v >= 0, "0 or more"),
        ("average_decay", fraction, "from 0 to below 1"),
        ("mesh.model", positive, "a positive number of devices"),
        ("evaluation.batch_size", positive, "a positive number of pictures"),
        ("checkpoint.keep_last", positive, "1 or more"),
        ("checkpoint.keep_best", lambda v: v >= 0, "0 or more"),
    ]
    settings = flatten(config)
    for key, holds, meaning in rules:
        if settings[key] is not None and not holds(settings[key]):
            raise UserError(f"config.{key} is {settings[key]!r}; it must be {meaning}")
    best = ("top1", "top5", "loss", *(name.rpartition(":")[2] for name in config.metrics))
    if config.checkpoint.best_metric not in best:
        asked = config.checkpoint.best_metric
        raise UserError(f'unknown config.checkpoint.best_metric "{asked}"; {suggest(asked, best)}')
    if config.num_steps is not None and config.num_examples is not None:
        raise UserError("config.num_steps and config.num_examples are both set; set one of them")
