"""The views of an image in evaluation and prediction.

Shape legend: B batch, H height, W width, S side. Images are uint8, RGB.
"""

import hashlib
import json
from collections.abc import Callable

import cv2
import numpy as np

from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.stain import Reinhard

# Incremented whenever the pixels seen in evaluation change.
VERSION = 1
# Images are always shrunk by area averaging: the other methods would skip pixels.
INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to uint8 [size, size, 3]; shrinks by area averaging."""
    shrinks = min(image.shape[:2]) > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else INTERPOLATION[interpolation])


# From an image, uint8 [H, W, 3], to its view or views, uint8 [..., S, S, 3].
Views = Callable[[np.ndarray, InputSpec], np.ndarray]


def central_view(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The view for evaluation: the central square whose side is `crop_fraction` of the shorter side, resized.

    Equivalent to resizing the shorter side to `image_size / crop_fraction` and cropping the centre, in a single resize.

    Args:
      image: uint8 [H, W, 3].
      spec: size S, crop fraction and interpolation.

    Returns:
      uint8 [S, S, 3].
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * spec.crop_fraction))
    y, x = (height - side) // 2, (width - side) // 2
    return resize(image[y : y + side, x : x + side], spec.image_size, spec.interpolation)


def ten_views(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The centre and the four corners, each as large as `central_view`'s square, and their mirror images.

    Arguments as for `central_view`.

    Returns:
      uint8 [10, S, S, 3].
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * spec.crop_fraction))
    bottom, right = height - side, width - side
    corners = ((bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right))
    crops = [resize(image[y : y + side, x : x + side], spec.image_size, spec.interpolation) for y, x in corners]
    return np.stack([view for crop in crops for view in (crop, crop[:, ::-1])])


def normalize_stain(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The stain-normalized image if `spec` asks for it, otherwise the image unchanged."""
    return Reinhard(*spec.stain)(image) if spec.stain else image


def preprocessing_fingerprint(spec: InputSpec) -> str:
    """A hash of everything that determines the pixels seen in evaluation."""
    facts = {
        "version": VERSION,
        "image_size": spec.image_size,
        "crop_fraction": spec.crop_fraction,
        "interpolation": spec.interpolation,
        "mean": spec.normalization.mean,
        "std": spec.normalization.std,
        "standardize": spec.normalization.standardize,
        "stain": spec.stain or [(), ()],
        "opencv": cv2.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
