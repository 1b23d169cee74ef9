"""Pictures as people have them, against what Pillow shows of them: turned, transparent, deep, cut off, too large."""

import io
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from xception_jax import config
from xception_jax.data.augmentation import Augmentation, random_view
from xception_jax.data.decode import OVERLAID, SCALED, TURNED, UnreadableImageError, decode
from xception_jax.errors import UserError
from xception_jax.experiment import Experiment, resolve
from xception_jax.inputs.spec import Decoding, InputSpec

EXIF_ORIENTATION = 274


def smooth(height=40, width=60, channels=3):
    """Blurred noise, other at each place."""
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2.5).reshape(height, width, channels)


def saved(image, name, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, name, **options)
    return buffer.getvalue()


def turned(image, name, orientation, **options):
    """The picture as it is stored, with EXIF data that says how it is turned."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    if name == "TIFF":
        return saved(image, name, tiffinfo={EXIF_ORIENTATION: orientation}, **options)
    return saved(image, name, exif=exif, **options)


def as_pillow(encoded, mode="RGB"):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert(mode), np.int32)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(name, orientation):
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(name, {})
    image, treated = smooth(), []
    encoded = turned(image, name, orientation, **options)
    found = decode(encoded, treated=treated)
    assert np.abs(found - as_pillow(encoded)).max() <= (3 if name == "JPEG" else 0)
    assert treated == [TURNED] * (orientation > 1)
    stored = decode(encoded, Decoding(orientation=False))
    assert np.abs(stored.astype(int) - image).mean() < 3


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_avif_is_turned_by_its_own_box(orientation):
    encoded = turned(smooth(), "AVIF", orientation, quality=95)
    assert np.abs(decode(encoded) - as_pillow(encoded)).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_crops_the_upright_picture(orientation):
    """To the bit where nothing is reduced; else near what is averaged from all pixels."""
    augmentation = Augmentation(flip=False)
    encoded = turned(smooth(120, 90), "JPEG", orientation, quality=95)
    whole = decode(encoded)
    for seed in range(4):
        views = [
            [random_view(x, np.random.default_rng(seed), InputSpec(size), augmentation) for x in (encoded, whole)]
            for size in (64, 20)
        ]
        np.testing.assert_array_equal(*views[0])
        near, far = (np.abs(views[1][0].astype(int) - x).mean() for x in (views[1][1], views[1][1][::-1, ::-1]))
        assert near < min(6, far)
    as_stored = InputSpec(64, decoding=Decoding(orientation=False))
    pixels = decode(encoded, as_stored.decoding)
    views = [random_view(x, np.random.default_rng(0), as_stored, augmentation) for x in (encoded, pixels)]
    np.testing.assert_array_equal(*views)


ENTRY = struct.pack(">HHIH", EXIF_ORIENTATION, 3, 1, 6)


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        (ENTRY, struct.pack(">HHIH", EXIF_ORIENTATION, 3, 1, 77)),
        (ENTRY, struct.pack(">HHIH", EXIF_ORIENTATION, 2, 1, 6)),
        (b"MM\0*\0\0\0\x08", b"MM\0*\xff\0\0\0"),
        (b"MM\0*", b"NN\0*"),
    ],
)
def test_nonsense_in_exif_leaves_the_picture_as_it_is(sound, damaged):
    encoded = turned(smooth(), "JPEG", 6)
    assert encoded.count(sound) == 1
    assert decode(encoded).shape == (60, 40, 3)
    assert decode(encoded.replace(sound, damaged)).shape == (40, 60, 3)


def transparent(mode):
    image = Image.fromarray(smooth()).convert("RGB" if mode in ("RGBA", "P") else "L")
    if mode == "P":
        image = image.quantize(64)
        image.info["transparency"] = 5
    else:
        image.putalpha(Image.fromarray(smooth(channels=1)[..., 0]))
    return image


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGBA", "TIFF")],
)
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_transparent_pictures_are_put_on_the_background(mode, name, background):
    treated = []
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    encoded = saved(transparent(mode), name, **options)
    above = Image.open(io.BytesIO(encoded)).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", above.size, (*background, 255)), above).convert("RGB")
    found = decode(encoded, Decoding(background=background), treated)
    assert np.abs(found - np.asarray(expected, np.int32)).max() <= 2
    assert treated == [OVERLAID]


@pytest.mark.parametrize(
    ("given", "name", "upright"), [(None, "folder", True), (None, "imagenet2012", False), (True, "imagenet2012", True)]
)
def test_published_data_sets_keep_their_pixels_unless_asked_otherwise(given, name, upright):
    settings = resolve(config.default(), None)
    settings.data.orientation, settings.data.name = given, name
    run = SimpleNamespace(config=settings)
    assert Experiment.input.fget(run).decoding == Decoding(orientation=upright)


@pytest.mark.parametrize(
    ("name", "value"), [("background", (256, 0, 0)), ("background", (1, 2)), ("white", 0), ("max_pixels", 0)]
)
def test_settings_out_of_range_are_refused(name, value):
    settings = config.default()
    settings.data[name] = value
    with pytest.raises(UserError, match=f"config.data.{name}"):
        config.validate(settings)


def deep(name, values):
    return cv2.imencode(f".{name}", values)[1].tobytes()


@pytest.mark.parametrize("name", ["png", "tif"])
@pytest.mark.parametrize("bits", [9, 12, 16])
def test_bits_that_are_not_used_do_not_darken(name, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (30, 40)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    treated = []
    found = decode(deep(name, values), treated=treated)
    assert np.abs(found - (values / (2**bits - 1) * 255)[..., None]).max() <= 1
    assert treated == [SCALED]


def test_white_scales_all_pictures_alike():
    dark = np.random.default_rng(0).integers(0, 500, (30, 40)).astype(np.uint16)
    found = decode(deep("png", dark), Decoding(white=4000))
    assert np.abs(found - (dark / 4000 * 255)[..., None]).max() <= 1
    bright = decode(deep("png", dark + 5000), Decoding(white=4000))
    assert (bright == 255).all()


def test_floats_are_read_from_0_to_1_and_refused_beyond():
    values = np.random.default_rng(0).random((30, 40), np.float32)
    np.testing.assert_allclose(decode(deep("tif", values)), 255 * np.repeat(values[..., None], 3, 2), atol=0.51)
    for wrong in (values * 300, values - 0.5, np.where(values > 0.5, np.nan, values)):
        with pytest.raises(UnreadableImageError, match="floats from"):
            decode(deep("tif", wrong))
    np.testing.assert_allclose(
        decode(deep("tif", values * 300), Decoding(white=300)), 255 * np.repeat(values[..., None], 3, 2), atol=1.01
    )


def test_transparency_of_deep_pictures_is_of_all_bits():
    """Twelve bits of colour, sixteen of transparency, as scanners' programs write them."""
    values = np.full((8, 8, 4), 4095, np.uint16)
    values[:4, :, :3], values[..., 3] = 0, 65535
    found = decode(deep("png", values), Decoding(background=(9, 9, 9)))
    assert (found[:4].max(), found[4:].min()) == (0, 255)


MODES = {"PNG": ("1", "L", "P", "RGB"), "BMP": ("1", "L", "P", "RGB"), "TIFF": ("1", "L", "P", "RGB", "CMYK")}
MODES |= {"GIF": ("P",), "WEBP": ("RGB",), "AVIF": ("RGB",), "JPEG": ("L", "RGB", "CMYK"), "JPEG2000": ("L", "RGB")}


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
def test_ordinary_pictures_are_opencv_s_to_the_bit(name, mode):
    treated = []
    encoded = saved(Image.fromarray(smooth()).convert(mode), name)
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode(encoded, treated=treated), expected)
    assert not treated


def test_first_frame_of_what_moves():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for name in ("GIF", "WEBP", "PNG"):
        encoded = saved(frames[0], name, save_all=True, append_images=frames[1:], duration=100)
        assert decode(encoded)[10, 10, 0] > 200


def both_paths(encoded):
    """As evaluation and as training read a file: its pixels, or why there are none."""
    for read in (decode, lambda e: random_view(e, np.random.default_rng(0), InputSpec(8), Augmentation())):
        try:
            yield read(encoded)
        except UnreadableImageError as error:
            yield str(error)


def with_thumbnail(encoded):
    """As cameras write it: a whole JPEG, with its end, in the EXIF data."""
    small = b"Exif\0\0" + saved(smooth(8, 8), "JPEG")
    return encoded[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + encoded[2:]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("wrap", [bytes, with_thumbnail])
def test_a_jpeg_that_is_cut_off_is_broken_in_training_and_evaluation_alike(progressive, wrap):
    encoded = wrap(saved(smooth(), "JPEG", progressive=progressive))
    whole = list(both_paths(encoded))
    for lacking in (1, 2):  # only the end marker: all pixels are there
        for found, expected in zip(both_paths(encoded[:-lacking]), whole, strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(both_paths(encoded + b"a phone's own data"), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    for share in (0.6, 0.97):
        said = list(both_paths(encoded[: int(len(encoded) * share)]))
        assert ["cut off" in text for text in said] == [True, True]


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000"])
def test_larger_pictures_than_allowed_are_not_decoded(name, monkeypatch):
    encoded, rules = saved(smooth(), name), Decoding(max_pixels=2399)
    assert decode(encoded, Decoding(max_pixels=2400)).shape == (40, 60, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImageError, match=r"40 x 60 are 2,400 pixels, more than max_pixels \(2,399\)"):
        decode(encoded, rules)
    with pytest.raises(UnreadableImageError, match="max_pixels"):
        random_view(encoded, np.random.default_rng(0), InputSpec(8, decoding=rules), Augmentation())


def test_a_bomb_is_refused_by_default():
    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    with pytest.raises(UnreadableImageError, match="400,000,000 pixels"):
        decode(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + bytes(100))


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"", "empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000), "HEIC.*convert it to JPEG"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "git lfs pull"),
        (saved(smooth(), "PNG")[:400], "^PNG picture that is cut off"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"To be scanned again.\n", "text, not a picture.*To be scanned"),
        (bytes(500), "zeros"),
        (b"\x01\x02\x03\x04" * 9, "not a picture"),
    ],
)
def test_what_is_no_picture_is_told_apart(encoded, said):
    with pytest.raises(UnreadableImageError, match=said):
        decode(encoded)
