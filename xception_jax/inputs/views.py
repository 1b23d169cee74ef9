"""The views of an image in evaluation and prediction.

Shape legend: B batch, H height, W width, S side. Images are uint8, RGB.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from xception_jax.inputs.resampling import Window, resample
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.stain import Reinhard

# Incremented whenever the pixels seen in evaluation change.
VERSION = 2
# The part of height and width that a corner's view shows of an image that is not cropped.
CORNER = 0.875

# From an image, uint8 [H, W, 3], to its view or views, uint8 [..., S, S, 3].
Views = Callable[[np.ndarray, InputSpec], np.ndarray]


def central_view(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The view for evaluation, as `spec.resize` says.

    "crop" is what timm and torchvision see: the shorter side is resized to `image_size / crop_fraction`, rounded down,
    and the central square is cut out; here in a single step, to the same pixels.

    Args:
      image: uint8 [H, W, 3].
      spec: size S, resize rule, crop fraction and interpolation.

    Returns:
      uint8 [S, S, 3].
    """
    return _view(image, spec, (0.5, 0.5))


def ten_views(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The centre and the four corners, and their mirror images.

    If `spec.resize` is "crop", all are as large as `central_view`'s square. Otherwise the centre's view is all of the
    image, and a corner's has 7/8 of its height and of its width, squashed or padded by the same rule.

    Arguments as for `central_view`.

    Returns:
      uint8 [10, S, S, 3].
    """
    corners = [_view(image, spec, (y, x), CORNER) for y in (0, 1) for x in (0, 1)]
    return np.stack([view for one in (central_view(image, spec), *corners) for view in (one, one[:, ::-1])])


def _view(image: np.ndarray, spec: InputSpec, at: tuple[float, float], part: float = 1.0) -> np.ndarray:
    """The view at a place.

    Args:
      image: uint8 [H, W, 3].
      spec: as for `central_view`.
      at: 0, 0.5 or 1: the beginning, the middle or the end of height and width.
      part: of height and width, of an image that is not cropped.

    Returns:
      uint8 [S, S, 3].
    """
    size, shape = spec.image_size, image.shape[:2]
    if spec.resize == "crop":
        shorter = math.floor(size / spec.crop_fraction)
        sides = [shorter * length // min(shape) for length in shape]
        rows, columns = (_cropped(*axis, size) for axis in zip(shape, sides, at, strict=True))
        return resample(image, rows, columns, spec.interpolation)
    sides = [size, size]
    if spec.resize == "pad":
        sides = [max(1, round(size * length / max(shape))) for length in shape]
    rows, columns = (_shown(*axis, part) for axis in zip(shape, sides, at, strict=True))
    return _padded(resample(image, rows, columns, spec.interpolation), size)


def _cropped(length: int, resized: int, at: float, size: int) -> Window:
    """The `size` pixels at a place of an axis that is resized from `length` to `resized`."""
    first, scale = round(at * (resized - size)), length / resized
    return Window(first * scale, (first + size) * scale, size)


def _shown(length: int, resized: int, at: float, part: float) -> Window:
    """A part of an axis at a place, in `resized` pixels."""
    start = at * (1 - part) * length
    return Window(start, start + part * length, resized)


def _padded(view: np.ndarray, size: int) -> np.ndarray:
    """The view, uint8 [h, w, 3], in the middle of a black square, uint8 [S, S, 3]."""
    (top, bottom), (left, right) = (((size - side) // 2, (size - side + 1) // 2) for side in view.shape[:2])
    return np.pad(view, ((top, bottom), (left, right), (0, 0))) if view.shape[:2] != (size, size) else view


def normalize_stain(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The stain-normalized image if `spec` asks for it, otherwise the image unchanged."""
    return Reinhard(*spec.stain)(image) if spec.stain else image


def preprocessing_fingerprint(spec: InputSpec) -> str:
    """A hash of everything that determines the pixels seen in evaluation."""
    return hashlib.sha256(json.dumps(how_seen(spec), sort_keys=True).encode()).hexdigest()


def how_seen(spec: InputSpec) -> dict[str, Any]:
    """Everything that determines the pixels seen in evaluation, by name."""
    return {
        "version": VERSION,
        "image_size": spec.image_size,
        "resize": spec.resize,
        "crop_fraction": spec.crop_fraction if spec.resize == "crop" else None,
        "interpolation": spec.interpolation,
        "mean": spec.normalization.mean,
        "std": spec.normalization.std,
        "standardize": spec.normalization.standardize,
        "stain": spec.stain or [(), ()],
        **dataclasses.asdict(spec.decoding),
        "opencv": cv2.__version__,
    }
