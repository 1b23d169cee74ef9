"""From bytes to pixels, against Pillow and NumPy."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from xception_jax.data.augmentation import Augmentation, random_view
from xception_jax.data.decode import UnreadableImageError, decode
from xception_jax.inputs.spec import InputSpec


def view_of(image, seed, size, **augmentation):
    return random_view(image, np.random.default_rng(seed), InputSpec(image_size=size), Augmentation(**augmentation))


def photograph(height: int, width: int) -> np.ndarray:
    """A smooth coloured picture."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 23) + np.cos(y / 17), np.sin((x + y) / 31), np.cos(x / 41) * np.sin(y / 29)]
    return np.stack([127 + 60 * w for w in waves], -1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode):
    picture = Image.fromarray(photograph(40, 60)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    decoded = decode(buffer.getvalue())
    assert decoded.shape == (40, 60, 3)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"), np.int32)
    assert np.abs(decoded - expected).mean() < (20 if mode == "CMYK" else 1)


@pytest.mark.parametrize("encoded", [b"", b"no picture", cv2.imencode(".png", photograph(9, 9))[1].tobytes()[:60]])
def test_what_is_not_an_image_is_refused(encoded):
    with pytest.raises(UnreadableImageError):
        decode(encoded)


def test_random_crops_have_the_area_and_aspect_asked_for():
    """The picture's red and green are its coordinates, so a crop tells where it is from."""
    y, x = np.mgrid[:256, :256]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    drawn = {"crop_area": (0.3, 0.5), "crop_aspect": (0.8, 1.25), "flip": False}
    areas, aspects = [], []
    for seed in range(200):
        view = view_of(image, seed, 64, **drawn).astype(np.float64)
        height, width = (np.ptp(view[..., c]) * 64 / 63 for c in (0, 1))
        areas.append(height * width / 256**2)
        aspects.append(width / height)
    assert 0.27 < min(areas) < 0.33
    assert 0.47 < max(areas) < 0.53
    assert min(aspects) > 0.76
    assert max(aspects) < 1.32
    assert np.mean(areas) == pytest.approx(0.4, abs=0.02)


def test_half_of_the_images_are_mirrored():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    drawn = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)}
    mirrored = sum(view_of(image, seed, 32, **drawn)[0, 0, 0] > 0 for seed in range(400))
    assert 160 < mirrored < 240


def test_long_image_falls_back_to_its_centre():
    image = np.zeros((10, 1000, 3), np.uint8)
    image[:, 495:505] = 200
    assert (view_of(image, 0, 10, crop_area=(0.9, 1.0), crop_aspect=(1.0, 1.0), flip=False) == 200).all()
