"""Augmentation of histology tiles."""

import cv2
import numpy as np
import pytest

from xception_jax.data import histology

PEERS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])  # scikit-image's, rounded


@pytest.fixture(scope="module")
def tile():
    """Smooth pink and violet with a white corner."""
    rng = np.random.default_rng(0)
    amounts = cv2.GaussianBlur(rng.uniform(0, 1.5, (64, 64, 3)), (0, 0), 4) * [1, 1, 0]
    image = 255 * np.exp(-amounts @ PEERS)
    image[:16, :16] = 255
    return image.round().astype(np.uint8)


def test_nothing_changed_is_the_image(tile):
    same = histology.restained(tile, np.zeros(3), np.zeros(3))
    assert np.abs(same.astype(int) - tile).max() <= 1


def test_more_haematoxylin_is_bluer_and_glass_stays_white(tile):
    """By the colours of the stains: haematoxylin takes red and green, and leaves blue."""
    more = histology.restained(tile, np.array([0.5, 0, 0]), np.zeros(3)).astype(int)
    red, green, blue = np.log((tile[20:] + 1.0) / (more[20:] + 1.0)).mean((0, 1))  # what more of it absorbs
    assert min(red, green) > 1.5 * blue > 0
    np.testing.assert_array_equal(more[:16, :16], 255)
    offset = histology.restained(tile, np.zeros(3), np.array([0.3, 0.3, 0]))
    np.testing.assert_array_equal(offset[:16, :16], 255)


def test_all_four_positions_occur_and_equal_draws_are_equal(tile):
    corners = set()
    for seed in range(20):
        views = [histology.augment(tile, np.random.default_rng(seed)) for _ in range(2)]
        np.testing.assert_array_equal(*views)
        assert views[0].dtype == np.uint8
        assert views[0].shape == tile.shape
        image = views[0].astype(int)
        bright = [image[y, x].mean() for y in (slice(12), slice(-12, None)) for x in (slice(12), slice(-12, None))]
        corners.add(int(np.argmax(bright)))
    assert corners == {0, 1, 2, 3}
