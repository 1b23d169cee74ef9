"""The paper's runs at full scale: sizes, and the settings that it states."""

import functools

import pytest

import configs.inception_v3
import configs.xception
from configs.paper import RUNS, get_config
from tests.models.test_counts import abstract, count
from xception_jax import config as config_lib
from xception_jax.errors import UserError
from xception_jax.training.durations import in_steps
from xception_jax.training.optimizers import create_optimizer, create_schedule

# ImageNet has 1000 classes, JFT 17,000. Inception V3's for JFT are worked out by hand.
XCEPTION, INCEPTION = 22_855_952, 23_626_728
INCEPTION_BODY = INCEPTION - 2049 * 1000
SIZES = {
    "xception": XCEPTION,
    "inception_v3": INCEPTION,
    "no_residual": 21_878_880,  # without 972,800 of kernels and 4,272 of normalizations
    "relu_between": XCEPTION,
    "elu_between": XCEPTION,
    "jft_xception": 55_639_952,
    "jft_xception_fc": 115_629_968,
    "jft_inception_v3": INCEPTION_BODY + 2049 * 17_000,
    "jft_inception_v3_fc": INCEPTION_BODY + 2049 * 4096 + 4097 * 4096 + 4097 * 17_000,
}


@pytest.mark.parametrize("run", RUNS)
def test_sizes(run):
    c = get_config(run)
    config_lib.validate(c)
    options = config_lib.model_options(c)
    classes = {"num_classes": 17_000} if run.startswith("jft") else {}
    assert count(abstract(c.model.name, **options, **classes)) == SIZES[run]


@pytest.mark.parametrize("run", RUNS)
def test_recipes(run):
    """Sections 4.2 and 4.3: what decays when, by how much; dropout, averages and weight decay."""
    c = get_config(run)
    examples, batches = (1_743_042, 32) if run.startswith("jft") else (1_281_167, 32)
    steps = functools.partial(in_steps, batch_size=batches, num_examples=examples)
    rate = create_schedule(c, total_steps=10**7, in_steps=steps)
    create_optimizer(dict(c.optimizer), rate, {})
    first, factor, images = (0.001, 0.9, 3_000_000) if run.startswith("jft") else (0.045, 0.94, 2 * examples)
    for times in (0, 1, 2):
        assert rate(round(images / 32 * (times + 0.5))) == pytest.approx(first * factor**times)
    assert c.optimizer.weight_decay == (4e-5 if "inception" in run else 1e-5)
    assert c.model.dropout == (0 if run.startswith("jft") else 0.5)
    assert c.optimizer.momentum == 0.9
    assert c.evaluation.averaged
    assert c.average_decay > 0


@pytest.mark.parametrize("module", [configs.xception, configs.inception_v3])
def test_files_of_single_runs_are_the_same(module):
    run = get_config(module.__name__.removeprefix("configs."))
    assert config_lib.flatten(run) == config_lib.flatten(module.get_config())


def test_a_mistyped_run_is_compared_with_the_others():
    with pytest.raises(UserError, match='no run "jft_xceptoin"; did you mean "jft_xception"'):
        get_config("jft_xceptoin")
