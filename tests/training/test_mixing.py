"""Mixup and CutMix: timm's images and targets on the same draws; distribution, sharding and what metrics are of."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.peers import libraries, timm_module
from xception_jax.models import variables
from xception_jax.parallel.mesh import batch_sharded, data_mesh, put_batch, replicated
from xception_jax.tasks.losses import binary_cross_entropy
from xception_jax.training.mixing import Mixing, box, outside
from xception_jax.training.state import create_state
from xception_jax.training.step import TrainSettings, make_train_step

CLASSES, SIDE = 5, 24
MIXING = Mixing(CLASSES, mixup=0.4, cutmix=1.0)


def batch(size=8, several=False):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (size, CLASSES)).astype(np.float32) if several else rng.integers(0, CLASSES, size)
    return {
        "image": rng.integers(0, 256, (size, SIDE, SIDE, 3), np.uint8),
        "label": labels if several else labels.astype(np.int32),
    }


class Draws:
    """NumPy's `random`, with the draws given: whether CutMix, lambda, and the centre of the box."""

    def __init__(self, cut, lam, centre):
        self.cut, self.lam, self.centre = cut, lam, list(centre)

    def rand(self):
        return 0.2 if self.cut else 0.8

    def beta(self, *_):
        return self.lam

    def randint(self, low, high, size=None):
        return self.centre.pop(0)


# As timm pairs the first image with the last, these are our pairs in its order.
THEIRS = [0, 2, 4, 6, 7, 5, 3, 1]
OURS = np.argsort(THEIRS)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("cut", "lam", "centre"),
    [(False, 0.31, (0, 0)), (False, 0.83, (0, 0)), (True, 0.4, (3, 20)), (True, 0.75, (12, 11)), (True, 0.95, (23, 0))],
)
def test_images_and_targets_are_timm_s(cut, lam, centre, smoothing, several, monkeypatch):
    torch = libraries()[0]
    timm = timm_module("data.mixup")
    monkeypatch.setattr(timm, "np", types.SimpleNamespace(**{**vars(np), "random": Draws(cut, lam, centre)}))
    data = batch(several=several)
    mixup = timm.Mixup(
        mixup_alpha=0.1, cutmix_alpha=1.0, prob=1.0, label_smoothing=smoothing, num_classes=CLASSES, multi_label=several
    )
    images = torch.from_numpy(data["image"][THEIRS]).permute(0, 3, 1, 2).float()
    images, targets = mixup(images, torch.from_numpy(data["label"][THEIRS]))

    weights = outside(box(jnp.float32(lam), *map(jnp.int32, centre), SIDE), SIDE) if cut else jnp.full((SIDE,) * 2, lam)
    ours = Mixing(CLASSES, label_smoothing=smoothing).mixed(*map(jnp.asarray, data.values()), weights)
    expected = images.permute(0, 2, 3, 1).numpy()[OURS]
    assert np.abs(np.asarray(ours["image"], np.float32) - expected).max() <= (0 if cut else 0.51)  # ours are bytes
    np.testing.assert_allclose(ours["target"], targets.numpy()[OURS], rtol=1e-5, atol=1e-6)


def test_labels_are_those_of_which_there_is_more():
    data = batch()
    for share in (0.8, 0.2):
        ours = Mixing(CLASSES).mixed(*map(jnp.asarray, data.values()), jnp.full((SIDE, SIDE), share))
        expected = data["label"] if share > 0.5 else data["label"].reshape(4, 2)[:, ::-1].ravel()
        np.testing.assert_array_equal(ours["label"], expected)


def test_what_is_unknown_of_one_of_two_is_unknown_of_both():
    data = batch(several=True)
    data["label"][0, 3] = np.nan
    target = Mixing(CLASSES).mixed(*map(jnp.asarray, data.values()), jnp.full((SIDE, SIDE), 0.5))["target"]
    np.testing.assert_array_equal(np.argwhere(np.isnan(target)), [[0, 3], [1, 3]])


@pytest.mark.parametrize(("mixup", "cutmix", "cut_share"), [(0.3, 1.0, 0.25), (0.3, 0.0, 0.0), (0.0, 1.0, 1.0)])
def test_draws_are_distributed_as_asked(mixup, cutmix, cut_share):
    """Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4); the box of CutMix is anywhere."""
    mixing = Mixing(CLASSES, mixup, cutmix, switch=0.25)
    keys = jax.random.split(jax.random.key(0), 2000)
    weights = np.asarray(jax.jit(jax.vmap(lambda key: mixing.draw(key, 16)))(keys))
    corner, uniform = weights[:, 0, 0], np.ptp(weights, (1, 2)) == 0
    lambdas = corner[uniform & (corner > 0) & (corner < 1)]
    assert abs(1 - len(lambdas) / len(weights) - cut_share) < 0.05
    if mixup:
        assert abs(lambdas.mean() - 0.5) < 0.04
        assert abs(lambdas.var() - 1 / (8 * mixup + 4)) < 0.015
    if cutmix:
        boxes = weights[(weights == 0).any((1, 2))]
        assert abs((boxes == 0)[:, 8, 8].mean() - (boxes == 0)[:, 8, 7].mean()) < 0.05
        assert (boxes == 0)[:, 0, 0].mean() > 0.05


class Linear(nnx.Module):
    """Logits that are linear in the pictures."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=rngs)

    def __call__(self, x, *, train=False, rngs=None):
        return self.linear(x.reshape(len(x), -1))


def step_of(devices, **settings):
    graphdef, weights = variables.split(Linear(nnx.Rngs(0)))
    optimizer, mesh = optax.sgd(0.1), data_mesh(jax.devices()[:devices])
    settings = TrainSettings(mixing=MIXING, **settings)
    step = make_train_step(graphdef, optimizer, optax.constant_schedule(0.1), settings, mesh)
    return step, jax.device_put(create_state(weights, optimizer, averaging=False), replicated(mesh)), mesh


def test_a_step_is_of_the_mixed_batch_on_any_number_of_devices():
    """Loss and top-1 of some steps, from the mixed batches in NumPy: on one device, and in parts on four."""
    mix = jax.jit(MIXING)
    for devices, parts in ((1, 1), (4, 2)):
        step, state, mesh = step_of(devices, seed=3, accumulate_steps=parts, loss=binary_cross_entropy)
        for i in range(3):
            kernel, bias = (np.asarray(state.weights.params["linear"][k], np.float64) for k in ("kernel", "bias"))
            mixed = jax.device_get(mix(jax.random.fold_in(jax.random.key(3), i), batch(16)))
            logits = (mixed["image"].reshape(16, -1) / 127.5 - 1) @ kernel + bias
            entropies = np.logaddexp(0, logits) - mixed["target"] * logits
            state, metrics = step(state, put_batch(batch(16), mesh))
            np.testing.assert_allclose(metrics["loss"], entropies.mean(), rtol=1e-4)
            np.testing.assert_allclose(metrics["top1"], (logits.argmax(1) == mixed["label"]).mean(), rtol=1e-6)
            assert 0 < mixed["share"] < 1


def test_mixing_moves_nothing_between_devices():
    mesh = data_mesh()
    sharded = batch_sharded(mesh)
    mix = jax.jit(MIXING, in_shardings=(None, sharded))
    text = mix.lower(jax.random.key(0), batch(16)).compile().as_text()
    assert "num_partitions=8" in text
    assert not re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", text)


def test_thresholds_are_timm_s():
    torch = libraries()[0]
    loss = timm_module("loss.binary_cross_entropy").BinaryCrossEntropy
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.normal(size=(7, CLASSES)), rng.uniform(0, 0.4, (7, CLASSES))
    for threshold in (None, 0.2):
        theirs = loss(target_threshold=threshold, reduction="none")(torch.from_numpy(logits), torch.from_numpy(targets))
        ours = binary_cross_entropy(jnp.float32(logits), jnp.float32(targets), target_threshold=threshold)
        np.testing.assert_allclose(ours, theirs.numpy().mean(-1), rtol=1e-5)
    classes = rng.integers(0, CLASSES, 7)
    theirs = loss(smoothing=0.1, reduction="none")(torch.from_numpy(logits), torch.from_numpy(classes))
    ours = binary_cross_entropy(jnp.float32(logits), jnp.int32(classes), label_smoothing=0.1)
    np.testing.assert_allclose(ours, theirs.numpy().mean(-1), rtol=1e-5)
