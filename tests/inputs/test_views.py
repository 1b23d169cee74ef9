"""What a network is shown of an image, against what timm, torchvision and Keras do with Pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from tests import peers
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.views import central_view, preprocessing_fingerprint, ten_views

SHAPES = [(320, 427), (500, 375), (96, 130), (40, 700), (299, 299), (1000, 1001)]


def noise(shape):
    """Far enough from black and white that no filter overshoots them: the order of the axes hardly matters."""
    return np.random.default_rng(0).integers(64, 192, (*shape, 3), np.uint8)


def in_two_steps(image, size, fraction, interpolation):
    """As timm and torchvision: the shorter side to size / fraction, rounded down; then the central square."""
    height, width = image.shape[:2]
    shorter = math.floor(size / fraction)
    resized = [int(shorter * n / min(height, width)) for n in (height, width)]
    big = Image.fromarray(image).resize(resized[::-1], getattr(Image.Resampling, interpolation.upper()))
    top, left = (round((n - size) / 2) for n in resized)
    return np.asarray(big.crop((left, top, left + size, top + size)), np.int32)


@pytest.mark.parametrize(("fraction", "interpolation"), [(0.8975, "bicubic"), (0.875, "bilinear"), (1.0, "bicubic")])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_timm_s_two_steps_in_one(shape, fraction, interpolation):
    image = noise(shape)
    for size in (299, 96):
        found = central_view(image, InputSpec(size, fraction, interpolation))
        assert (found.shape, found.dtype) == ((size, size, 3), np.uint8)
        assert np.abs(found - in_two_steps(image, size, fraction, interpolation)).max() <= 1


def test_crop_is_that_of_timm_itself():
    """Its own transformation of a picture, with the settings of `legacy_xception`."""
    _, _, timm = peers.libraries()
    image = noise((375, 500))
    transform = timm.data.create_transform((3, 299, 299), interpolation="bicubic", crop_pct=0.8975, mean=0, std=1)
    expected = 255 * transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    found = central_view(image, InputSpec(299, 0.8975, "bicubic"))
    assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_squash_is_keras_load_img(tmp_path, interpolation):
    import keras

    path, image = tmp_path / "wide.png", noise((100, 300))
    Image.fromarray(image).save(path)
    expected = np.asarray(keras.utils.load_img(path, target_size=(80, 80), interpolation=interpolation), np.int32)
    found = central_view(image, InputSpec(80, interpolation=interpolation, resize="squash"))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(("shape", "inside"), [((100, 300), (27, 80)), ((90, 31), (80, 28)), ((64, 64), (80, 80))])
def test_padded_image_is_whole_in_the_middle_of_black(shape, inside):
    image = noise(shape)
    found = central_view(image, InputSpec(80, interpolation="nearest", resize="pad"))
    lit = (found > 0).all(-1)
    assert (lit.any(1).sum(), lit.any(0).sum()) == inside
    top, left = ((80 - n) // 2 for n in inside)
    part = found[top : top + inside[0], left : left + inside[1]]
    np.testing.assert_array_equal(part, Image.fromarray(image).resize(inside[::-1], Image.Resampling.NEAREST))
    assert found.any(-1).sum() == inside[0] * inside[1]


def test_an_object_at_the_edge_of_a_wide_image_is_seen_unless_cropped():
    image = np.full((300, 900, 3), 230, np.uint8)
    image[100:200, 100:200] = (200, 30, 30)
    for resize, seen in (("squash", True), ("pad", True), ("crop", False)):
        view = central_view(image, InputSpec(96, 1.0, resize=resize)).astype(np.int32)
        assert (view[..., 0] - view[..., 1] > 100).any() == seen, resize


def test_ten_crops_are_the_centre_the_corners_and_their_mirror_images():
    image = noise((60, 90))
    found = ten_views(image, InputSpec(30, 0.5, "bilinear"))  # the image keeps its size
    places = [(15, 30), (0, 0), (0, 60), (30, 0), (30, 60)]
    expected = [image[y : y + 30, x : x + 30] for y, x in places]
    np.testing.assert_array_equal(found[::2], expected)
    np.testing.assert_array_equal(found[1::2], np.flip(expected, 2))


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_ten_views_of_a_whole_image_are_itself_and_seven_eighths_at_each_corner(resize):
    image, spec = noise((80, 160)), InputSpec(40, interpolation="bilinear", resize=resize)
    found = ten_views(image, spec)
    np.testing.assert_array_equal(found[0], central_view(image, spec))
    corners = [image[y : y + 70, x : x + 140] for y in (0, 10) for x in (0, 20)]
    size, top = ((40, 40), 0) if resize == "squash" else ((40, 20), 10)
    for view, corner in zip(found[2::2], corners, strict=True):
        expected = np.asarray(Image.fromarray(corner).resize(size, Image.Resampling.BILINEAR), np.int32)
        inner = view[top + 1 : 40 - top - 1, 1:-1]  # pixels around the corner's part count at its edges
        assert np.abs(inner - expected[1:-1, 1:-1]).max() <= 1
    np.testing.assert_array_equal(found[1::2], found[::2, :, ::-1])


def test_fingerprint_changes_with_what_is_seen():
    base = preprocessing_fingerprint(InputSpec())
    assert preprocessing_fingerprint(InputSpec()) == base
    for change in ({"crop_fraction": 0.9}, {"image_size": 300}, {"interpolation": "area"}, {"resize": "pad"}):
        assert preprocessing_fingerprint(InputSpec(**change)) != base
    whole = [preprocessing_fingerprint(InputSpec(crop_fraction=f, resize="squash")) for f in (0.5, 1.0)]
    assert whole[0] == whole[1] != base
