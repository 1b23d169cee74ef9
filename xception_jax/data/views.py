"""From an encoded picture to the square of pixels that the network sees.

Shape legend: H height, W width, S side. Pictures are uint8, RGB.
"""

import hashlib
import json
import math
from typing import NamedTuple

import cv2
import numpy as np
from ml_collections import ConfigDict

from xception_jax.data import jpeg
from xception_jax.data.stain import Reinhard

# Raised by one whenever evaluated pixels change.
VERSION = 1
# Area averaging wherever a picture shrinks: the others would skip pixels between those they look at.
INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}

cv2.setNumThreads(0)  # the pipeline's threads each work on a picture of their own


class BrokenPictureError(ValueError):
    """Bytes that are no picture."""


def decode(encoded: bytes | np.ndarray) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP to uint8 [H, W, 3], whatever its colours; an EXIF rotation is not applied.

    Pixels are returned as they are.

    Raises:
      BrokenPictureError: the bytes cannot be decoded.
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    data = np.frombuffer(encoded, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error as e:
        raise BrokenPictureError(str(e)) from None
    if image is None:
        raise BrokenPictureError("it is no JPEG, PNG, WebP or BMP picture, or it is damaged")
    return image


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to uint8 [size, size, 3]; shrinks by area averaging."""
    shrinks = min(image.shape[:2]) > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else INTERPOLATION[interpolation])


class Crop(NamedTuple):
    """A rectangle of a picture, in pixels."""

    y: int
    x: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """What the rectangle holds of an image; no copy."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def reduced(self, reduction: int) -> "Crop":
        """The rectangle in a picture that is smaller by `reduction`."""
        ends = ((n + reduction // 2) // reduction for n in (self.y, self.x, self.y + self.height, self.x + self.width))
        top, left, bottom, right = ends
        return Crop(top, left, bottom - top, right - left)


def random_view(picture: bytes | np.ndarray, rng: np.random.Generator, size: int, data: ConfigDict) -> np.ndarray:
    """A training view: a crop of random area and aspect (Szegedy et al., 2014), resized, mirrored half of the time.

    Of a JPEG no row below the crop is decoded, and where the crop is n = 2, 4 or 8 times as large as the view, its
    pixels are decoded n times smaller. Evaluated pixels are all decoded, see `central_crop`.

    Args:
      picture: encoded, or uint8 [H, W, 3].
      rng: draws the crop.
      size: S.
      data: `crop_area` and `crop_aspect` (ranges), `flip`, `interpolation`, `stain_means` and `stain_stds`.

    Returns:
      uint8 [S, S, 3].

    Raises:
      BrokenPictureError: the picture cannot be decoded.
    """
    header = jpeg.read_header(picture) if isinstance(picture, bytes) else None
    if isinstance(picture, np.ndarray) or header is None or data.stain_means:  # those depend on all pixels
        image = normalize_stain(decode(picture), data)
        crop = random_crop(rng, image.shape[0], image.shape[1], data)
    else:
        crop = random_crop(rng, header.height, header.width, data)
        reduction = next((n for n in jpeg.REDUCTIONS if min(crop.height, crop.width) >= n * size), 1)
        top = jpeg.decode_top(picture, header, crop.y + crop.height, reduction)
        if top is None:
            raise BrokenPictureError("it is a damaged JPEG picture")
        image, crop = top, crop.reduced(reduction)
    view = _resize_view(crop.of(image), size, data.interpolation)
    return cv2.flip(view, 1) if data.flip and rng.random() < 0.5 else view


def random_crop(rng: np.random.Generator, height: int, width: int, data: ConfigDict) -> Crop:
    """A rectangle of random area and aspect; where ten tries do not fit into the picture, its central square."""
    (least, most), (flattest, tallest) = data.crop_area, data.crop_aspect
    for _ in range(10):
        area = rng.uniform(least, most) * height * width
        aspect = math.exp(rng.uniform(math.log(flattest), math.log(tallest)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    side = min(height, width)
    return Crop((height - side) // 2, (width - side) // 2, side, side)


def _resize_view(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """As `resize`, but area averaging, which is slow, only where the others would skip pixels: from half the size."""
    shrinks = min(image.shape[:2]) >= 2 * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else INTERPOLATION[interpolation])


def central_crop(image: np.ndarray, size: int, data: ConfigDict) -> np.ndarray:
    """The evaluated view: the central square whose side is `crop_fraction` of the shorter side, resized.

    It is what resizing the shorter side to `size / crop_fraction` and cropping the centre shows, in one resize.

    Args:
      image: uint8 [H, W, 3].
      size: S.
      data: `crop_fraction`, `interpolation`.

    Returns:
      uint8 [S, S, 3].
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * data.crop_fraction))
    y, x = (height - side) // 2, (width - side) // 2
    return resize(image[y : y + side, x : x + side], size, data.interpolation)


def normalize_stain(image: np.ndarray, data: ConfigDict) -> np.ndarray:
    """The picture in the colours that histology is asked to have (`stain_means`, `stain_stds`), or as it is."""
    return Reinhard(data.stain_means, data.stain_stds)(image) if data.stain_means else image


def ten_crops(image: np.ndarray, size: int, data: ConfigDict) -> np.ndarray:
    """The centre and the four corners, each as large as `central_crop`'s square, and their mirror images.

    Args and their meaning as of `central_crop`.

    Returns:
      uint8 [10, S, S, 3].
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * data.crop_fraction))
    bottom, right = height - side, width - side
    corners = ((bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right))
    crops = [resize(image[y : y + side, x : x + side], size, data.interpolation) for y, x in corners]
    return np.stack([view for crop in crops for view in (crop, crop[:, ::-1])])


def preprocessing_fingerprint(data: ConfigDict, image_size: int) -> str:
    """A hash of all that decides the pixels which evaluation sees."""
    facts = {
        "version": VERSION,
        "image_size": image_size,
        "crop_fraction": data.crop_fraction,
        "interpolation": data.interpolation,
        "mean": data.mean,
        "std": data.std,
        "standardize": data.standardize,
        "stain": [data.stain_means, data.stain_stds],
        "opencv": cv2.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
