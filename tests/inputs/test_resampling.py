"""Resized pixels, against Pillow's and OpenCV's."""

import cv2
import numpy as np
import pytest
from PIL import Image

from xception_jax.inputs.choices import INTERPOLATIONS
from xception_jax.inputs.resampling import FILTERS, Window, resample

PILLOWS = ("nearest", "bilinear", "bicubic", "lanczos")
# Of the image (height, width) and of the result: shrunk, enlarged, both, hardly, by a whole factor, to the same.
SIZES = [
    ((97, 130), (40, 40)),
    ((375, 500), (299, 299)),
    ((20, 31), (64, 48)),
    ((200, 15), (30, 60)),
    ((64, 64), (63, 65)),
    ((96, 64), (32, 32)),
    ((33, 47), (33, 20)),
    ((1, 700), (7, 7)),
    ((5, 5), (5, 5)),
]


def noise(shape, black=0, white=255):
    """Of two levels in each colour, so that every filter overshoots that can."""
    return np.random.default_rng(0).choice(np.array([black, white], np.uint8), (*shape, 3))


def ours(image, box, size, interpolation):
    """`box` as Pillow has it: left, top, right, bottom."""
    left, top, right, bottom = box
    return resample(image, Window(top, bottom, size[0]), Window(left, right, size[1]), interpolation)


def pillow(image, box, size, interpolation):
    filter_ = getattr(Image.Resampling, interpolation.upper())
    return np.asarray(Image.fromarray(image).resize(size[::-1], filter_, box), np.int32)


def columns_then_rows(image, box, size, interpolation):
    """By two calls of Pillow, which chooses an order of its own where it resizes both."""
    left, top, right, bottom = box
    height, width = size
    columns = pillow(image, (left, 0, right, len(image)), (len(image), width), interpolation)
    return pillow(columns.astype(np.uint8), (0, top, width, bottom), (height, width), interpolation)


def test_all_filters_have_a_name():
    assert set(FILTERS) == set(INTERPOLATIONS)


@pytest.mark.parametrize("interpolation", PILLOWS)
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_pixels_are_pillow_s(shape, size, interpolation):
    image = noise(shape)
    box = (0, 0, *shape[::-1])
    found = ours(image, box, size, interpolation)
    assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
    np.testing.assert_array_equal(found, columns_then_rows(image, box, size, interpolation))
    image = noise(shape, 64, 191)  # no filter overshoots black or white
    assert np.abs(ours(image, box, size, interpolation) - pillow(image, box, size, interpolation)).max() <= 1


@pytest.mark.parametrize("interpolation", PILLOWS[1:])
def test_a_part_with_fractions_is_pillow_s_box(interpolation):
    image, box = noise((90, 120)), (10.25, 7.5, 101.875, 88.5)
    for size in ((31, 44), (150, 99)):
        found = ours(image, box, size, interpolation)
        np.testing.assert_array_equal(found, columns_then_rows(image, box, size, interpolation))


@pytest.mark.parametrize(
    ("shape", "size"), [((97, 130), (40, 40)), ((96, 64), (32, 32)), ((500, 31), (7, 30)), ((20, 31), (64, 48))]
)
def test_area_is_opencv_s(shape, size):
    image = noise(shape)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.int32)
    assert np.abs(ours(image, (0, 0, *shape[::-1]), size, "area") - expected).max() <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_one_colour_stays_that_colour(interpolation):
    image = np.full((50, 70, 3), (7, 255, 130), np.uint8)
    for size in ((13, 17), (90, 99)):
        assert (ours(image, (3.5, 0, 70, 49.5), size, interpolation) == image[0, 0]).all()
