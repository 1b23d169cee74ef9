"""Augmentations of photographs: timm's pixels on the same draws, and draws that are distributed like timm's."""

import collections
import itertools

import numpy as np
import pytest
from PIL import Image

from tests.peers import libraries, timm_module
from xception_jax.data import augmentation, policies
from xception_jax.data.augmentation import find_augmentations
from xception_jax.errors import UserError

TIMM_NAMES = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


class Draws:
    """Python's `random`, with the draws given."""

    def __init__(self, negative=False, resample=None, uniform=(), integers=()):
        self.negative, self.resample = negative, resample
        self.uniforms, self.integers = list(uniform), list(integers)

    def random(self):
        return 0.9 if self.negative else 0.1

    def choice(self, _):
        return self.resample

    def uniform(self, low, high):
        return low + (high - low) * self.uniforms.pop(0)

    def randint(self, low, high):
        return low + int((high - low + 1) * self.integers.pop(0))


def smooth_photograph(side=60):
    """Waves that a pixel's thirtieth part, by which movements round, does not change much; and dark and light spots."""
    y, x = np.mgrid[:side, :side]
    waves = np.stack([np.sin(x / 6), np.cos(y / 9), np.sin((x + y) / 8)], -1)
    image = np.uint8(128 + 90 * waves)
    image[4:9, 30:50] //= 4
    image[40:50, 10:14] = 240
    return image


def test_the_operations_are_timm_s():
    assert [TIMM_NAMES[name] for name in policies.OPERATIONS] == timm_module(
        "data.auto_augment"
    )._RAND_INCREASING_TRANSFORMS


LOOKED_UP = ("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add")
ENHANCED = ("color", "contrast", "brightness", "sharpness")  # Pillow cuts off decimals


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_an_operation_gives_timm_s_pixels(name, monkeypatch):
    timm, changed = timm_module("data.auto_augment"), 0
    photograph = smooth_photograph()
    for magnitude, negative in itertools.product((0.0, 0.4, 3.3, 7.0, 9.9), (False, True)):
        theirs = timm.AugmentOp(TIMM_NAMES[name], prob=1.0, magnitude=magnitude)
        for resample, pillow_s in zip(policies.FILTERS, timm._RANDOM_INTERPOLATION, strict=True):
            monkeypatch.setattr(timm, "random", Draws(negative, pillow_s))
            expected = np.asarray(theirs(Image.fromarray(photograph)), np.int32)
            ours = policies.operated(photograph, name, magnitude, negative, resample)
            assert ours.dtype == np.uint8
            changed += not np.array_equal(ours, photograph)
            apart = np.abs(ours - expected)
            if name in LOOKED_UP:
                assert apart.max() == 0
            elif name in ENHANCED:
                assert apart.max() <= 2
            else:  # where the picture ends, OpenCV blends it with the grey outside
                assert np.mean(apart > 2) < 0.1
                assert np.median(apart) <= 1
    assert changed >= 12


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_an_operation_has_a_strongest_magnitude(name):
    """Where timm's ends in an error of Pillow, if it is "posterize"."""
    image = smooth_photograph()
    assert policies.operated(image, name, policies.STRONGEST, False, policies.FILTERS[0]).shape == image.shape


def test_randaugment_draws_as_timm_does(monkeypatch):
    """Two of fifteen, each with probability 1/2, at a normal magnitude, in either direction, with either filter."""
    seen = []
    monkeypatch.setattr(policies, "operated", lambda image, *drawn: seen.append(drawn) or image)
    view, rng, views = smooth_photograph(8), np.random.default_rng(0), 4000
    for _ in range(views):
        policies.randaugment(view, rng, magnitude=7.0, magnitude_std=0.5)
    names, magnitudes, negatives, filters = zip(*seen, strict=True)
    assert abs(len(seen) - views) < 4 * np.sqrt(views / 2)
    counts = collections.Counter(names)
    assert counts.keys() == policies.OPERATIONS.keys()
    assert max(abs(n - views / 15) for n in counts.values()) < 5 * np.sqrt(views / 15)
    assert abs(np.mean(magnitudes) - 7) < 0.04
    assert abs(np.std(magnitudes) - 0.5) < 0.03
    assert abs(np.mean(negatives) - 0.5) < 0.04
    assert abs(np.mean([f == policies.FILTERS[0] for f in filters]) - 0.5) < 0.04


def test_magnitudes_end_at_0_and_10(monkeypatch):
    seen = []
    monkeypatch.setattr(policies, "operated", lambda image, name, magnitude, *_: seen.append(magnitude) or image)
    for _ in range(200):
        policies.randaugment(smooth_photograph(8), np.random.default_rng(len(seen)), magnitude=5.0, magnitude_std=20.0)
    assert (min(seen), max(seen)) == (0.0, 10.0)


class Recorded:
    """A generator that keeps the shares of its ranges that it draws."""

    def __init__(self, seed):
        self.rng, self.uniforms, self.integer_shares = np.random.default_rng(seed), [], []

    def random(self):
        return self.rng.random()

    def uniform(self, low, high):
        self.uniforms.append(self.rng.random())
        return low + (high - low) * self.uniforms[-1]

    def integers(self, high, size=None, dtype=None):
        if size is not None:
            return self.rng.integers(high, size=size, dtype=dtype)
        self.integer_shares.append(self.rng.random())
        return int(high * self.integer_shares[-1])


def test_erased_rectangles_are_timm_s(monkeypatch):
    torch = libraries()[0]
    timm = timm_module("data.random_erasing")
    view, erased = np.zeros((60, 60, 3), np.uint8), 0
    for seed in range(40):
        rng = Recorded(seed)
        ours = policies.erase(view, rng, erase_probability=1.0).any(-1)
        monkeypatch.setattr(timm, "random", Draws(uniform=rng.uniforms, integers=rng.integer_shares))
        theirs = timm.RandomErasing(probability=1.0, mode="pixel", device="cpu")(torch.zeros(3, 60, 60))
        np.testing.assert_array_equal(ours, theirs.numpy().any(0))
        erased += ours.any()
    assert erased > 35


def test_a_view_is_erased_as_often_as_asked():
    view, rng = np.zeros((20, 20, 3), np.uint8), np.random.default_rng(0)
    share = np.mean([policies.erase(view, rng, erase_probability=0.25).any() for _ in range(2000)])
    assert abs(share - 0.25) < 0.04
    assert not view.any()  # it may be the data set's own array


def test_erased_pixels_are_random_bytes():
    views = [
        policies.erase(np.zeros((60, 60, 3), np.uint8), np.random.default_rng(s), erase_probability=1) for s in range(9)
    ]
    values = np.concatenate([view[view.any(-1)].ravel() for view in views])
    assert abs(values.mean() - 127.5) < 2
    assert len(np.unique(values)) == 256


def test_colour_jitter_mixes_with_black_grey_mean_and_grey_image():
    """Brightness, contrast and saturation are interpolations, as in the PyTorch documentation, at factors up to 1.4."""
    view = smooth_photograph().astype(np.float64)
    luma = np.round(view @ [0.299, 0.587, 0.114])
    towards = {0: 0.0, 1: np.round(luma.mean()), 2: luma[..., None]}

    class One:
        """The generator that has one of the three changed, by a factor at either end of the range."""

        def __init__(self, which, highest):
            self.which, self.highest = which, highest

        def permutation(self, n):
            assert n == 3
            return [self.which]

        def uniform(self, low, high):
            return high if self.highest else low

    for which, highest in itertools.product(towards, (False, True)):
        other = towards[which]
        ours = policies.color_jitter(np.uint8(view), One(which, highest), jitter=0.4)
        expected = np.clip(other + (1.4 if highest else 0.6) * (view - other), 0, 255)
        assert np.abs(ours - expected).max() < 2  # rounding
        assert np.abs(ours - view).max() > 5


def test_augmentations_are_done_in_the_order_named(monkeypatch):
    def brighter(view, rng, *, amount):
        return view + np.uint8(amount)

    monkeypatch.setitem(augmentation.AUGMENTATIONS._known, "brighter", brighter)
    monkeypatch.setitem(augmentation.AUGMENTATIONS._known, "doubled", lambda view, rng: 2 * view)
    for names, expected in (("brighter, doubled", 16), ("doubled,brighter", 11), ("", 3)):
        view = np.full((4, 4, 3), 3, np.uint8)
        for augment in find_augmentations(names, {"amount": 5, "jitter": 0.4}):
            view = augment(view, None)
        assert (view == expected).all(), names
    with pytest.raises(UserError, match='unknown augmentation "randaugmnet"; did you mean "randaugment"'):
        find_augmentations("histology, randaugmnet", {})
