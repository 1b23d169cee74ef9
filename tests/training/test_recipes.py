"""The modern recipes in configs/: what their sources say of ImageNet, in steps, rates and functions."""

import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from configs import xception_ra3, xception_rsb
from xception_jax import experiment as experiment_lib
from xception_jax.errors import UserError
from xception_jax.training.recipe import create_recipe

pytestmark = pytest.mark.usefixtures("one_device")


def recipe_of(config):
    config.data.update(name="synthetic", num_examples=1_281_167)
    return create_recipe(experiment_lib.create(config))


@pytest.mark.parametrize(("name", "steps", "peak"), [("a2", 187_671, 0.005), ("a3", 62_557, 0.008)])
def test_resnet_strikes_back(name, steps, peak):
    """Of 2048 images; five epochs of 625.6 steps up, and half of the peak half-way down."""
    recipe = recipe_of(xception_rsb.get_config(name))
    assert recipe.total_steps == steps
    warm = 3128
    assert float(recipe.schedule(0)) == 0
    np.testing.assert_allclose([recipe.schedule(s) for s in (warm, (steps + warm) // 2)], [peak, peak / 2], rtol=1e-3)
    settings = recipe.settings
    assert (settings.mixing.mixup, settings.mixing.cutmix, settings.mixing.switch) == (0.1, 1.0, 0.5)
    mixed = np.float32([[0.7, 0.3, 0, 0]])
    np.testing.assert_allclose(  # both classes count, each by its own sigmoid
        settings.loss(np.float32([[2, -1, 0, 3]]), mixed),
        [np.logaddexp(0, [-2, 1, 0, 3]).mean()],
        rtol=1e-5,
    )


def test_what_has_no_effect_is_refused():
    config = xception_rsb.get_config("a2")
    config.loss = "cross_entropy"
    with pytest.raises(UserError, match='loss "cross_entropy" has no option "target_threshold"'):
        recipe_of(config)
    config.batch_size = 2049
    with pytest.raises(UserError, match="mix pairs of images; make it even"):
        recipe_of(config)


def only_classes(logits, labels):
    """A loss of one's own that takes no mixed labels."""
    return -jax.numpy.take_along_axis(logits, labels[:, None], 1)[:, 0]


def test_a_loss_that_takes_no_mixed_labels_is_refused(tiny):
    tiny.loss, tiny.mixup = f"{__name__}:only_classes", 0.1
    with pytest.raises(UserError, match=r'mix labels, float \[B, K\], which the loss ".*only_classes" does not take'):
        experiment_lib.create(tiny)


def test_ra3():
    recipe = recipe_of(xception_ra3.get_config())
    per_epoch = 1_281_167 / 256
    assert recipe.total_steps == round(450 * per_epoch)
    ends = [recipe.schedule(round(epochs * per_epoch)) for epochs in (5, 5 + 2.3, 5 + 2.5, 5 + 4.9)]
    np.testing.assert_allclose(ends, 0.016 * 0.97 ** np.array([0, 0, 1, 2]), rtol=1e-5)
    assert recipe.settings.mixing is None


def plain(logits, labels):
    """A loss of one's own without any option."""
    return jax.numpy.square(logits.max(1) - labels)


def descent(schedule, *, weight_decay):
    """An optimizer of one's own with one option."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": f"{__name__}:plain", "label_smoothing": 0.9}, "config.label_smoothing is 0.9; leave it at 0.0"),
        ({"loss": f"{__name__}:plain", "label_weights": "weights.csv"}, "config.label_weights is 'weights.csv'; leave"),
        ({"optimizer.name": "adamw", "optimizer.nesterov": True}, "config.optimizer.nesterov is True; leave it at Fal"),
        ({"optimizer.name": "sgd", "optimizer.epsilon": 0.1}, "config.optimizer.epsilon is 0.1; leave it at None"),
        ({"optimizer.name": f"{__name__}:descent", "optimizer.nesterov": True}, 'descent" has no option "nesterov"'),
        ({"optimizer.name": f"{__name__}:descent", "optimizer.momentum": 0.5}, 'descent" has no option "momentum"'),
    ],
)
def test_a_setting_that_the_loss_or_the_optimizer_does_not_have_is_refused(
    tiny, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    Path("weights.csv").write_text("class,weight\n" + "".join(f"class{i},1\n" for i in range(4)))
    tiny.update_from_flattened_dict(changes)
    run = experiment_lib.create(tiny)
    with pytest.raises(UserError, match=re.escape(message)):
        create_recipe(run)
    create_recipe(run, resumed=True)  # version 0.1.0 ignored it: its runs go on


def test_mixing_smooths_labels_of_any_loss(tiny):
    tiny.loss, tiny.label_smoothing, tiny.mixup = f"{__name__}:soft", 0.1, 0.2
    create_recipe(experiment_lib.create(tiny))


def soft(logits, labels):
    """A loss of one's own that takes mixed labels, too."""
    targets = jax.nn.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    return jax.numpy.square(jax.nn.softmax(logits) - targets).sum(1)
