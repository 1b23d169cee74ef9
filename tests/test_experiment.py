"""What users get wrong, and what they read then."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tests import peers
from xception_jax import config as config_lib
from xception_jax import experiment
from xception_jax.data import open_source
from xception_jax.data.sources.registry import open_synthetic
from xception_jax.errors import TrainingError, UserError
from xception_jax.evaluation.evaluator import Evaluator, eval_step
from xception_jax.inputs.spec import InputSpec, Normalization
from xception_jax.models import Backbone, variables
from xception_jax.parallel.preemption import Preemption
from xception_jax.pretrained import Pretrained
from xception_jax.training import durations, loop, recipe
from xception_jax.training.recipe import create_recipe
from xception_jax.training.state import create_state
from xception_jax.workdir import identity
from xception_jax.workdir.checkpoints import Checkpoints
from xception_jax.workdir.log import RunLog
from xception_jax.workdir.status import Status
from xception_jax.workdir.throughput import Profiler


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "xeption", 'unknown model "xeption"; did you mean "xception"?'),
        ("model.aux_head", True, 'model "xception" has no option "aux_head"'),
        ("model.between", "rleu", 'unknown between "rleu"; did you mean "relu"?'),
        ("model.num_classes", 7, "config.model.num_classes is 7, but synthetic has 4 classes"),
        ("optimizer.name", "sdg", 'unknown optimizer.name "sdg"; did you mean "sgd"?'),
        ("schedule.name", "cosin", 'unknown schedule.name "cosin"; did you mean "cosine"?'),
        ("schedule.warmup", "5 epoch of 7", 'config.schedule.warmup is "5 epoch of 7", which is not a duration'),
        ("schedule.decay_every", "0 epochs", 'config.schedule.name = "constant"'),
        ("evaluation.every", "0 epochs", 'config.evaluation.every is "0 epochs"; write an interval above 0, such as'),
        ("checkpoint.every", "0 steps", 'or, for none during training, "never"'),
        ("log_every", "never", 'config.log_every is "never", which is not a duration'),
        ("lowering", "refrence", 'unknown lowering "refrence"; did you mean "reference"?'),
        ("log_every", "often", 'config.log_every is "often", which is not a duration'),
        ("batch_size", 12, "batch_size=12 does not divide evenly over 8 devices; the nearest size that does is 16"),
        ("image_size", 16, "images of 16x16 pixels are too small"),
        ("model.dropout", 1.5, "config.model.dropout is 1.5; it must be from 0 to below 1"),
        ("data.resize", "stretch", "config.data.resize is 'stretch'; it must be one of squash, crop, pad"),
        ("data.interpolation", "linear", "it must be one of bilinear, bicubic, area"),
        ("seed", -1, "config.seed is -1; it must be 0 to 2"),
        ("checkpoint.best_metric", "top2", 'unknown config.checkpoint.best_metric "top2"; did you mean "top'),
        ("data.name", "cifar100000", "cifar100"),
        ("data.name", "imagenet2012", "ILSVRC2012_img_train.tar"),
        ("data.name", "folder", "--config.data.path=FOLDER"),
        ("data.train_split", "tran", "tran"),
    ],
)
def test_one_line_says_what_is_wrong(tiny, tmp_path, key, value, message):
    tiny.data.data_dir = str(tmp_path)
    if key == "data.train_split":
        tiny.data.name = "digits"
    tiny.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        create_recipe(experiment.create(tiny))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_each_experiment_has_the_lowering_that_it_asks_for(tiny):
    """Of two in one process, whichever was made last: a depthwise convolution is one, or nine shifted products."""
    asked = {}
    for lowering in ("reference", "auto"):
        tiny.lowering = lowering
        asked[lowering] = create_recipe(experiment.create(tiny, devices=jax.devices()[:1]))
    for lowering, how in asked.items():
        jaxpr = str(how.train_step.trace(how.abstract_state, how.abstract_batch).jaxpr)
        assert ("feature_group_count=8" in jaxpr) == (lowering == "reference")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lerning_rate", "learning_rate"),
        ("model.widht", "model.width"),
        ("data_dir", "data.data_dir"),
        ("optimiser.momentum", "optimizer.momentum"),
        ("optimiser.name", "optimizer.name"),
    ],
)
def test_mistyped_key_names_the_nearest(key, nearest):
    with pytest.raises(UserError, match=nearest):
        config_lib.check_key(key)


def claim(workdir, config):
    """Claims a work directory for a config, as a start does; what is remarked, and the config as it was written."""
    how = create_recipe(experiment.create(config))
    splits = {"train": identity.of_source(how.experiment.source)}
    remarks = loop.compare(workdir, how, splits)
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(config_lib.to_json(how.experiment.config))
    identity.record(workdir, splits, 0)
    return remarks, how.experiment.config


def test_work_directory_of_another_config_is_refused(tiny, tmp_path):
    assert claim(tmp_path, tiny)[0] == []
    tiny.log_every = "5 steps"
    assert claim(tmp_path, tiny)[0] == []  # changes nothing that is computed
    tiny.learning_rate = 0.5
    with pytest.raises(UserError, match=r"learning_rate: 0.045 -> 0.5"):
        claim(tmp_path, tiny)


def test_work_directory_of_other_data_is_refused(tiny, tmp_path):
    claim(tmp_path, tiny)
    tiny.data.name, tiny.data.augment = "tests.test_experiment:fewer", ""
    with pytest.raises(UserError, match=r"data\.name: synthetic"):
        claim(tmp_path, tiny)
    how = create_recipe(experiment.create(tiny))
    fewer = {"train": identity.of_source(how.experiment.source)}
    with pytest.raises(UserError, match=r'split "train" has changed since .*: 20 examples then, 19 now'):
        identity.compare(tmp_path, fewer, "train")


def fewer(split, *, num_examples, num_classes, image_size):
    """The synthetic data set without its last example."""
    return open_synthetic(split, num_examples=num_examples - 1, num_classes=num_classes, image_size=image_size)


def test_longer_run_says_what_its_schedule_makes_of_it(tiny, tmp_path):
    """A cosine of 12 steps is at its middle, half of the peak, where one of 6 is at zero."""
    tiny.schedule.name, tiny.learning_rate = "cosine", 0.5
    claim(tmp_path, tiny)
    tiny.num_steps = 12
    (remark,), _ = claim(tmp_path, tiny)
    assert remark.startswith("training lasts 12 steps, not 6 as before; the cosine schedule")
    assert remark.endswith("at step 6 the learning rate is 0.25, not 0")
    tiny.schedule.name = "constant"
    other = tmp_path / "constant"
    claim(other, tiny)
    tiny.num_steps = 24
    assert claim(other, tiny)[0] == ["training lasts 24 steps, not 12 as before"]


def test_config_survives_its_file(tiny, tmp_path):
    tiny.user.grade = 3
    tiny.user.colours = ("red", "blue")
    _, written = claim(tmp_path, tiny)
    assert config_lib.read(tmp_path / "config.json").to_dict() == written.to_dict()


def test_config_of_an_earlier_version_is_read(tiny, tmp_path):
    """Version 0.1.0 had no schema, no losses of one's own, and another name for a key."""
    _, written = claim(tmp_path, tiny)
    old = json.loads((tmp_path / "config.json").read_text())
    old["data"]["most_broken"] = old["data"].pop("max_unreadable")
    for key in ("schema", "loss", "metrics", "user"):
        del old[key]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert config_lib.read(tmp_path / "config.json").to_dict() == written.to_dict()
    with pytest.raises(UserError, match=r'"data\.most_broken" is now called "data\.max_unreadable"'):
        config_lib.check_key("data.most_broken")


def test_run_of_an_earlier_version_with_keys_of_its_own_is_read(tiny, tmp_path, capsys):
    """Version 0.1.0 took any key of a config file, and wrote it."""
    claim(tmp_path, tiny)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    old |= {"note": "first try", "study": {"number": 3}}
    old["schedule"]["tried"] = [1, 2]
    path.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r'no key "schedule\.tried"'):  # what this version writes has none
        config_lib.read(path)
    del old["schema"]
    path.write_text(json.dumps(old))
    tiny.user.update(note="first try", study={"number": 3}, schedule={"tried": (1, 2)})
    assert claim(tmp_path, tiny)[0] == []  # the same run
    said = capsys.readouterr().out
    assert (
        said
        == f"{path} is of version 0.1.0: its own settings (schedule.tried, note, study.number) are in config.user now\n"
    )


@pytest.mark.parametrize("value", [math.nan, (1, Path("x")), np.float32(1), {"deep": {1, 2}}])
def test_what_config_json_cannot_hold_is_refused(tiny, value):
    tiny.user.mine = value
    with pytest.raises(UserError, match=r"config\.user\.mine\S* is .*, which config\.json cannot hold"):
        experiment.create(tiny)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("note", r'the config has no key "note"; settings of your own go into config\.user: config\.user\.note'),
        ("lerning_rate", 'the config has no key "lerning_rate"; did you mean "learning_rate"'),
        ("model.widht", 'model "xception" has no option "widht"; did you mean "width"'),
        ("data.num_exmaples", 'data set "synthetic" has no option data.num_exmaples; did you mean "num_examples"'),
        ("optimizer.momentun", 'optimizer "sgd" has no option optimizer.momentun; did you mean "momentum"'),
        ("data.columns.labels", 'config.data.columns has no "labels"; did you mean "label"'),
    ],
)
def test_mistyped_key_in_a_config_file(tiny, key, message):
    *sections, name = key.split(".")
    functools.reduce(ConfigDict.__getitem__, sections, tiny)[name] = 1
    if "columns" in sections:
        tiny.data.name, tiny.data.path = "table", "labels.csv"
    with pytest.raises(UserError, match=message):
        create_recipe(experiment.create(tiny))


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500 steps", 500), ("1 step", 1), ("2 epochs", 50), ("3000000 examples", 750_000), ("0.5 epochs", 12.5)],
)
def test_durations(text, steps):
    assert durations.in_steps(text, batch_size=4, num_examples=100, key="k") == steps


def test_exponential_schedule_is_the_paper_s(tiny):
    """Section 4.3: 0.045, times 0.94 every 2 epochs. 20 pictures at 8 a step: an epoch is 2.5 steps."""
    tiny.num_steps = 30
    schedule = create_recipe(experiment.create(tiny)).schedule
    for step in (0, 4, 5, 9, 10, 29):
        assert float(schedule(step)) == pytest.approx(0.045 * 0.94 ** (step // 5), rel=1e-5)


@pytest.mark.parametrize("metric", ["loss", "gradient_norm"])
def test_nan_stops_the_run_and_keeps_the_last_checkpoint(tiny, tmp_path, monkeypatch, metric):
    """A step that fails at the third call, in place of the network's: what the loop makes of it is asked here."""

    def make_step(*_):
        def step(state, batch):
            state.step += 1
            figures = {"loss": 1.0, "top1": 0.0, "gradient_norm": 1.0, "learning_rate": 0.1}
            return state, figures | ({metric: math.nan} if state.step == 3 else {})

        return step

    monkeypatch.setattr(recipe, "make_train_step", make_step)
    tiny.checkpoint.every = "1 steps"
    tiny.log_every = tiny.evaluation.every = "100 steps"
    asked = experiment.create(tiny)
    how = create_recipe(asked)
    weights = variables.Weights({"kernel": np.ones(3, np.float32)}, {})
    state = create_state(weights, optax.sgd(0.1), averaging=False)
    checkpoints = Checkpoints(tmp_path, tiny.checkpoint)
    validator, profiler = Evaluator(asked, "validation", eval_step(asked)), Profiler(tmp_path / "profile", range(0))
    with (
        Preemption(listens=False) as preemption,
        Status(tmp_path) as status,
        RunLog(tmp_path, how.total_steps, resume_step=0, primary=True) as log,
    ):
        run = loop.Run(how, how.train_step, validator, checkpoints, log, status, preemption, profiler)
        with pytest.raises(TrainingError, match=r"at step 3 the .*nan.*; the checkpoint of step 2 is kept"):
            loop.fit(run, state)
    assert checkpoints.find("last") == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("squash", 1.0)),  # as the weights say
        ({"resize": "crop"}, ("crop", 0.7)),
        ({"resize": "pad"}, ("pad", 1.0)),
        ({"crop_fraction": 0.9}, ("crop", 0.9)),  # who sets it wants it
    ],
)
def test_resize_rule_is_the_weights_unless_it_is_given(tiny, given, expected):
    spec = InputSpec(crop_fraction=0.7, resize="squash")
    trained = Pretrained("test", "xception", {}, 3, variables.Weights({}, {}), spec)
    tiny.data.update(given)
    found = config_lib.input_spec(experiment.resolve(tiny, trained))
    assert (found.resize, found.crop_fraction) == expected


def test_what_is_shown_whole_is_not_cropped(tiny):
    tiny.data.update({"resize": "squash", "crop_fraction": 0.9})
    with pytest.raises(UserError, match=r'"squash", which shows the whole image, but config.data.crop_fraction is 0.9'):
        experiment.create(tiny)


def test_resize_rule_is_recorded_and_earlier_runs_cropped(tiny, tmp_path):
    tiny.data.resize = "pad"
    text = config_lib.to_json(experiment.resolve(tiny, None))
    (tmp_path / "config.json").write_text(text)
    assert config_lib.input_spec(config_lib.read(tmp_path / "config.json")).resize == "pad"
    contents = json.loads(text)
    del contents["data"]["resize"]
    (tmp_path / "config.json").write_text(json.dumps(contents))
    assert config_lib.input_spec(config_lib.read(tmp_path / "config.json")).resize == "crop"


def test_training_starts_from_trained_weights(tiny, tmp_path):
    """All but the logits are the file's, which has another class count; input and options are the file's too."""
    options = {"stem": "small", "width": 0.01, "middle_blocks": 0}
    _, weights = peers.tiny("xception", num_classes=3, **options)
    spec = InputSpec(crop_fraction=0.7, normalization=Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    trained = Pretrained("test", "xception", {**options, "bn_epsilon": 0.5}, 3, weights, spec)
    config = experiment.resolve(tiny, trained)
    run = dataclasses.replace(experiment.create(config), pretrained=trained)
    assert run.config.model.bn_epsilon == 0.5
    assert run.config.model.width == 0.01
    assert (run.input.crop_fraction, run.input.normalization.mean) == (0.7, (0.1, 0.2, 0.3))
    started = create_recipe(run).initial_state().weights
    flat, expected = (flatten_dict(w.params) for w in (started, weights))
    assert flat.keys() == expected.keys()
    for path in flat:
        same = flat[path].shape == expected[path].shape and np.array_equal(flat[path], expected[path])
        assert same == (path[:2] != ("head", "logits")), path


def test_a_trained_network_needs_no_training_split(tiny):
    """Its classes are given, and a split has its labels."""

    def open_split(split):
        assert split == "test"
        source = open_source("synthetic", split, {**tiny.data, "image_size": 32})
        source.class_names = source.class_names[::-1]
        return source

    names = tuple(f"class{i}" for i in range(4))
    found = experiment.create(tiny, source=open_split, class_names=names)
    assert (found.class_names, found.num_classes) == (names, 4)
    split, plain = found.open_split("test"), open_split("test")
    assert [split[i][1] for i in range(20)] == [3 - plain[i][1] for i in range(20)]


def hits(logits, labels):
    return (jax.numpy.argmax(logits, -1) == labels).astype("int32")


def mean_loss(logits, labels):
    return ((logits[:, 0] - labels) ** 2).mean()


def loss_of_each_number(logits, labels):
    return (logits - labels) ** 2


def of_classes(logits, labels):
    return jax.numpy.take_along_axis(logits, labels[:, None], 1)[:, 0]


def mean_over_examples(logits, labels):
    return logits.mean(0)


def nothing(logits, labels):
    pass


@pytest.mark.parametrize(
    ("task", "key", "function", "message"),
    [
        ("single_label", "loss", mean_loss, r'loss ".*:mean_loss" returns the shape \[\], but \[B\] is needed'),
        ("single_label", "metrics", mean_loss, r'metric "mean_loss" returns the shape \[\], but \[B\] is needed'),
        ("single_label", "metrics", mean_over_examples, r"returns the shape \[K\]"),
        ("single_label", "loss", hits, r'loss ".*:hits" returns int32, which has no gradient; a loss returns floats'),
        ("single_label", "metrics", nothing, "returns no array"),
        ("multi_label", "loss", loss_of_each_number, r"returns the shape \[B, K\]"),
        ("regression", "loss", loss_of_each_number, r"returns the shape \[B, K\]"),
        ("multi_label", "loss", of_classes, r"does not take logits, float32 \[B, K\], with labels, float32 \[B, K\]: "),
        ("single_label", "loss", of_classes, None),
        ("multi_label", "metrics", mean_loss, r"does not take logits, .*: "),
    ],
)
def test_a_figure_that_is_not_one_of_each_example_is_refused(tiny, task, key, function, message):
    """With labels as the task has them."""
    name = f"{__name__}:{function.__name__}"
    tiny.task = task
    tiny.update_from_flattened_dict({key: name if key == "loss" else (name,)})
    if message is None:
        experiment.create(tiny)
        return
    with pytest.raises(UserError, match=message):
        experiment.create(tiny)


class Needy(Backbone):
    def __init__(self, num_classes, *, rngs, depth):
        pass


def needy_data(split, *, period, image_size):
    pass


def needy_optimizer(schedule, *, beta):
    pass


def needy_loss(logits, labels, gamma):
    pass


def needy_augmentation(view, rng, *, strength):
    pass


def takes_one(logits):
    pass


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("model.name", "Needy", r'model ".*:Needy" needs depth, without a default; set config\.model\.depth$'),
        ("data.name", "needy_data", r'data set ".*" needs period, without a default; set config\.data\.period$'),
        ("data.augment", "needy_augmentation", r"augmentation .* needs strength, .* set config\.data\.strength$"),
        ("optimizer.name", "needy_optimizer", r"optimizer .* needs beta, .* set config\.optimizer\.beta$"),
        ("loss", "needy_loss", r"loss .* needs gamma, .* set config\.user\.gamma$"),
        ("metrics", ("needy_loss",), r"metric .* needs gamma, .* set config\.user\.gamma$"),
        ("loss", "takes_one", r"loss .* does not take the arguments that it gets \(too many positional arguments\)"),
    ],
)
def test_a_parameter_that_nothing_sets_is_said(tiny, key, name, message):
    names = f"{__name__}:{name}" if isinstance(name, str) else tuple(f"{__name__}:{n}" for n in name)
    tiny.update_from_flattened_dict({key: names})
    if key == "model.name":
        tiny.model = config_lib.default().model
        tiny.model.name = names
    with pytest.raises(UserError, match=message):
        create_recipe(experiment.create(tiny))


def above(logits, labels, *, least=0.0):
    """A metric of one's own with an option."""
    return logits.max(1) > least


def test_metrics_have_settings(tiny):
    tiny.metrics, tiny.user.least = (f"{__name__}:above",), 2.0
    metric = experiment.create(tiny).metrics["above"]
    assert metric(np.float32([[1, 0], [3, 0]]), None).tolist() == [False, True]
