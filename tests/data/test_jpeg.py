"""JPEG headers and partial decoding, against what OpenCV makes of the whole file."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xception_jax.data import augmentation
from xception_jax.data import decode as jpeg
from xception_jax.data.augmentation import Augmentation, random_crop, random_view
from xception_jax.data.decode import UnreadableImageError
from xception_jax.inputs.spec import InputSpec

SAMPLINGS = [getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{n}") for n in (411, 420, 422, 440, 444)]


def picture(height, width, channels=3):
    """Blurred noise: detail at all places, but none finer than a JPEG can hold."""
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).reshape(height, width, channels)


def encode(image, *parameters):
    return cv2.imencode(".jpg", image, list(parameters))[1].tobytes()


@st.composite
def files(draw, smallest=1):
    size = st.integers(smallest, 150)
    return encode(
        picture(draw(size), draw(size), draw(st.sampled_from([1, 3]))),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, draw(st.sampled_from(SAMPLINGS))),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, draw(st.integers(0, 1))),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, draw(st.sampled_from([0, 1, 5]))),
        *(cv2.IMWRITE_JPEG_QUALITY, draw(st.integers(40, 100))),
    )


def decode_whole(encoded, reduction=1):
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
             8: cv2.IMREAD_REDUCED_COLOR_8}[reduction]  # fmt: skip
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)[..., ::-1]


@settings(max_examples=60, deadline=None)
@given(files(), st.binary(max_size=300))
def test_header_tells_the_size(encoded, comment):
    # A segment of comments, and filling before the next marker.
    encoded = encoded[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + b"\xff" + encoded[2:]
    header = jpeg.read_header(encoded)
    assert (header.height, header.width) == decode_whole(encoded).shape[:2]


@settings(max_examples=60, deadline=None)
@given(files(), st.data())
def test_damaged_header_is_none_or_a_size(encoded, data):
    assert jpeg.read_header(encoded[: data.draw(st.integers(0, 20))]) is None
    at = data.draw(st.integers(0, min(len(encoded), 700) - 1))
    damaged = bytearray(encoded)
    damaged[at] = data.draw(st.integers(0, 255))
    header = jpeg.read_header(bytes(damaged))
    assert header is None or min(header.height, header.width) > 0


@settings(max_examples=60, deadline=None)
@given(encoded=files(smallest=40), reduction=st.sampled_from([1, 2, 4]), share=st.floats(0.01, 1))
def test_top_is_that_of_the_whole_image(encoded, reduction, share):
    header = jpeg.read_header(encoded)
    rows = max(1, round(share * header.height))
    top = jpeg.decode_top(encoded, header, rows, reduction)
    whole = decode_whole(encoded, reduction)
    needed = -(-rows // reduction)
    assert needed <= len(top) <= len(whole)
    np.testing.assert_array_equal(top[:needed], whole[:needed])


@settings(max_examples=30, deadline=None)
@given(encoded=files(smallest=40), seed=st.integers(0, 1000), size=st.sampled_from([16, 40, 64]))
def test_view_is_that_of_the_decoded_image(encoded, seed, size):
    """Where nothing is reduced, to the bit; else close to the crop, averaged."""
    spec, augmentation = InputSpec(image_size=size), Augmentation(flip=False)
    view = random_view(encoded, np.random.default_rng(seed), spec, augmentation)
    whole = decode_whole(encoded)
    crop = random_crop(np.random.default_rng(seed), *whole.shape[:2], augmentation)
    if min(crop.height, crop.width) < 2 * size:
        np.testing.assert_array_equal(view, random_view(whole, np.random.default_rng(seed), spec, augmentation))
    else:
        averaged = cv2.resize(crop.of(whole), (size, size), interpolation=cv2.INTER_AREA).astype(np.int32)
        assert np.abs(view - averaged).mean() < 12
        assert np.abs(view - averaged).mean() < np.abs(np.roll(view, 2, 1) - averaged).mean()


def test_same_view_again():
    encoded, spec = encode(picture(300, 400)), InputSpec(image_size=32)
    first, second = (random_view(encoded, np.random.default_rng(5), spec, Augmentation()) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_large_images_are_reduced(monkeypatch):
    """A crop of the whole picture, 8 to 9 times as large as the view."""
    encoded, seen = encode(picture(350, 350)), []
    decode_top = jpeg.decode_top
    monkeypatch.setattr(augmentation, "decode_top", lambda *args: seen.append(args[3]) or decode_top(*args))
    whole = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    for size in (40, 80, 170, 180):
        view = random_view(encoded, np.random.default_rng(0), InputSpec(image_size=size), whole)
        assert view.shape == (size, size, 3)
    assert seen == [8, 4, 2, 1]


def test_damaged_file_is_refused():
    encoded = encode(picture(50, 50))
    scan = encoded.index(b"\xff\xda")
    with pytest.raises(UnreadableImageError):
        random_view(encoded[:scan], np.random.default_rng(0), InputSpec(image_size=16), Augmentation())
