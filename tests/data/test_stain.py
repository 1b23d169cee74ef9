"""Stain normalization against scikit-image's L*a*b* (`make_stain_fixture.py`), and published colours."""

from pathlib import Path

import numpy as np
import pytest

from xception_jax.inputs import stain


@pytest.fixture(scope="module")
def expected():
    with np.load(Path(__file__).with_name("stain.npz")) as file:
        return dict(file)


# L*a*b* of sRGB's corners under D65, as published (brucelindbloom.com, to two digits).
COLOURS = {
    (255, 255, 255): (100.00, 0.00, 0.00),
    (0, 0, 0): (0.00, 0.00, 0.00),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
}


def test_published_colours():
    found = stain.lab_of_rgb(np.array([list(COLOURS)], np.uint8))
    np.testing.assert_allclose(found[0], list(COLOURS.values()), atol=0.02)


def test_all_bytes_come_back():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    # Fractions are dropped, so that rounding may cost one.
    difference = image.astype(int) - stain.rgb_of_lab(stain.lab_of_rgb(image))
    assert difference.min() >= 0
    assert difference.max() <= 1


def test_conversion_is_scikit_image_s(expected):
    np.testing.assert_allclose(stain.lab_of_rgb(expected["tile"]), expected["lab"], atol=1e-10)


@pytest.mark.parametrize("preset", list(stain.PRESETS))
def test_normalization_is_scikit_image_s(preset, expected):
    found, exact = stain.PRESETS[preset](expected["tile"]), expected[preset]
    # Fractions are dropped; where scikit-image's number is whole up to rounding, either neighbour will do.
    near = np.abs(exact - np.round(exact)) < 1e-3
    assert np.array_equal(found[~near], np.floor(exact[~near]))
    assert np.abs(found[near] - exact[near]).max(initial=0) < 1.001
    assert near.mean() < 0.2


def test_what_is_too_bright_becomes_white(expected):
    assert np.all(stain.Reinhard((150.0, 0.0, 0.0), (1.0, 1.0, 1.0))(expected["tile"]) == 255)


def test_the_colours_become_the_target_s(expected):
    fit = stain.Reinhard((60.0, 15.0, -8.0), (6.0, 3.0, 3.0))  # narrow: nothing is clipped
    before, after = stain.lab_of_rgb(expected["tile"]), stain.lab_of_rgb(fit(expected["tile"]))
    assert np.abs(before.mean((0, 1)) - fit.means).max() > 3
    np.testing.assert_allclose(after.mean((0, 1)), fit.means, atol=0.5)
    np.testing.assert_allclose(after.std((0, 1)), fit.stds, rtol=0.03)


def test_an_even_tile_gets_the_target_s_mean():
    after = stain.PRESETS["v1"](np.full((8, 8, 3), 200, np.uint8))
    np.testing.assert_allclose(stain.lab_of_rgb(after)[0, 0], stain.PRESETS["v1"].means, atol=0.5)


def test_standardization(expected):
    image = expected["tile"]
    x = image.astype(np.float64)
    np.testing.assert_allclose(stain.standardize(image), (x - x.mean()) / x.std(), atol=1e-5)
    assert stain.standardize(image).dtype == np.float32
    # A single pixel that is one brighter: its deviation is below 1 / sqrt(H W 3).
    image = np.zeros((10, 10, 3), np.uint8)
    image[0, 0, 0] = 1
    assert stain.standardize(image)[0, 0, 0] == pytest.approx((1 - 1 / 300) * np.sqrt(300))
