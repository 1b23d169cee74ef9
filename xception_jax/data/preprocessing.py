"""From an encoded picture to the square of pixels that the network sees.

Shape legend: H height, W width, S side. Pictures are uint8, RGB.
"""

import hashlib
import json
import math

import cv2
import numpy as np
from ml_collections import ConfigDict

from xception_jax.data.stain import Reinhard

# Raised by one whenever evaluated pixels change.
VERSION = 1
# Area averaging wherever a picture shrinks: the others would skip pixels between those they look at.
INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}

cv2.setNumThreads(0)  # the pipeline's threads each work on a picture of their own


class BrokenPictureError(ValueError):
    """Bytes that are no picture."""


def decode(encoded: bytes) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP to uint8 [H, W, 3], whatever its colours; an EXIF rotation is not applied.

    Raises:
      BrokenPictureError: the bytes cannot be decoded.
    """
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


def random_crop_flip(image: np.ndarray, rng: np.random.Generator, size: int, data: ConfigDict) -> np.ndarray:
    """A training view: a crop of random area and aspect (Szegedy et al., 2014), resized, mirrored half of the time.

    Args:
      image: uint8 [H, W, 3].
      rng: draws the crop.
      size: S.
      data: `crop_area` and `crop_aspect` (ranges), `flip`, `interpolation`.

    Returns:
      uint8 [S, S, 3].
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = rng.uniform(*data.crop_area) * height * width
        aspect = math.exp(rng.uniform(*np.log(data.crop_aspect)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            break
    else:  # too long a picture for these aspects: its central square
        h = w = min(height, width)
        y, x = (height - h) // 2, (width - w) // 2
    view = resize(image[y : y + h, x : x + w], size, data.interpolation)
    return cv2.flip(view, 1) if data.flip and rng.random() < 0.5 else view


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
