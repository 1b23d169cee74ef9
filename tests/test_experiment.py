"""What users get wrong, and what they read then."""

import dataclasses
import math

import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from tests import peers
from xception_jax import config as config_lib
from xception_jax import experiment, ops
from xception_jax.errors import TrainingError, UserError
from xception_jax.evaluation.evaluator import Evaluator
from xception_jax.models.input_spec import InputSpec, Normalization
from xception_jax.parallel.preemption import Preemption
from xception_jax.pretrained import Pretrained
from xception_jax.training import durations, loop
from xception_jax.training import state as train_state
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
        ("schedule.warmup", "5 epoch", "warm-up"),
        ("lowering", "refrence", 'unknown lowering "refrence"; did you mean "reference"?'),
        ("log_every", "often", 'config.log_every is "often", which is no duration'),
        ("batch_size", 12, "batch_size=12 does not divide over 8 devices; the nearest that does is 16"),
        ("image_size", 16, "pictures of 16x16 pixels are too small"),
        ("model.dropout", 1.5, "config.model.dropout is 1.5; it must be from 0 to below 1"),
        ("seed", -1, "config.seed is -1; it must be 0 to 2"),
        ("checkpoint.best_metric", "top2", "config.checkpoint.best_metric is 'top2'; it must be"),
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
        experiment.create(tiny)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_operators_have_the_lowering_that_is_set(tiny):
    for lowering in ("reference", "auto"):
        tiny.lowering = lowering
        experiment.create(tiny)
        assert ops.use_reference("depthwise") == (lowering == "reference")


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


def test_work_directory_of_another_config_is_refused(tiny, tmp_path):
    loop.claim(tmp_path, tiny)
    tiny.log_every = "5 steps"
    loop.claim(tmp_path, tiny)  # changes nothing that is computed
    tiny.learning_rate = 0.5
    with pytest.raises(UserError, match=r"learning_rate: 0.045 -> 0.5"):
        loop.claim(tmp_path, tiny)


def test_config_survives_its_file(tiny, tmp_path):
    loop.claim(tmp_path, tiny)
    assert config_lib.read(tmp_path / "config.json").to_dict() == tiny.to_dict()


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500 steps", 500), ("1 step", 1), ("2 epochs", 50), ("3000000 examples", 750_000), ("0.5 epochs", 12.5)],
)
def test_durations(text, steps):
    assert durations.in_steps(text, batch_size=4, num_examples=100, key="k") == steps


def test_exponential_schedule_is_the_paper_s(tiny):
    """Section 4.3: 0.045, times 0.94 every 2 epochs. 20 pictures at 8 a step: an epoch is 2.5 steps."""
    tiny.num_steps = 30
    schedule = experiment.create(tiny).schedule
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

    monkeypatch.setattr(experiment, "make_train_step", make_step)
    tiny.checkpoint.every = "1 steps"
    tiny.log_every = tiny.evaluation.every = "100 steps"
    asked = experiment.create(tiny)
    weights = train_state.Weights({"kernel": np.ones(3, np.float32)}, {})
    state = train_state.create(weights, optax.sgd(0.1), averaging=False)
    checkpoints = Checkpoints(tmp_path, tiny.checkpoint)
    validator, profiler = Evaluator(asked, "validation"), Profiler(tmp_path / "profile", range(0))
    with (
        Preemption() as preemption,
        Status(tmp_path) as status,
        RunLog(tmp_path, asked.total_steps, resume_step=0, primary=True) as log,
    ):
        run = loop.Run(asked, asked.train_step, validator, checkpoints, log, status, preemption, profiler)
        with pytest.raises(TrainingError, match=r"at step 3 the .*nan.*; the checkpoint of step 2 is kept"):
            loop.fit(run, state)
    assert checkpoints.find("last") == 2


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
    started = run.initial_state().weights
    flat, expected = (flatten_dict(w.params) for w in (started, weights))
    assert flat.keys() == expected.keys()
    for path in flat:
        same = flat[path].shape == expected[path].shape and np.array_equal(flat[path], expected[path])
        assert same == (path[:2] != ("head", "logits")), path
