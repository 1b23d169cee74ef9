"""Resizes images to the pixels that Pillow gives, with which timm, torchvision and Keras' `load_img` resize.

An image that shrinks is not sampled at points: the filter is as many times wider as the image shrinks ("antialiased").
`tf.image.resize`, and with it Keras' `image_dataset_from_directory`, does so only if told (`antialias=True`), and
OpenCV's bilinear and bicubic never do.

Shape legend: H height, W width of the image; h, w of the result; N, n the length of an axis before and after.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import csr_array

BITS = 22  # of weights after the point: sums of bytes by integers are Pillow's to the bit, and as fast as by floats
STRIP = 64  # rows resized at once: what is between the two axes then stays in a core's cache


class Window(NamedTuple):
    """A part of an axis, and how many pixels show it.

    Attributes:
      start, end: in pixels of the image, fractions too; 0 is the first pixel's edge, N the last one's.
      size: n.
    """

    start: float
    end: float
    size: int


# A filter's weight of a pixel: from its distance to the result's centre in pixels, and the pixels of a result's one.
Filter = Callable[[np.ndarray, float], np.ndarray]


def _nearest(distance: np.ndarray, scale: float) -> np.ndarray:
    return ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)


def _area(distance: np.ndarray, scale: float) -> np.ndarray:
    """What of the pixel is covered by the result's."""
    return np.maximum(np.minimum(distance + 0.5, scale / 2) - np.maximum(distance - 0.5, -scale / 2), 0)


def _bilinear(distance: np.ndarray, scale: float) -> np.ndarray:
    return np.maximum(1 - np.abs(distance) / max(scale, 1), 0)


def _bicubic(distance: np.ndarray, scale: float) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5; OpenCV's and PyTorch's have -0.75."""
    x = np.abs(distance) / max(scale, 1)
    return np.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def _lanczos(distance: np.ndarray, scale: float) -> np.ndarray:
    x = distance / max(scale, 1)
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


# With the distance at which a filter ends, in pixels of the image or of the result, whichever are larger.
FILTERS: dict[str, tuple[float, Filter]] = {
    "nearest": (0.5, _nearest),
    "area": (1, _area),
    "bilinear": (1, _bilinear),
    "bicubic": (2, _bicubic),
    "lanczos": (3, _lanczos),
}


def resample(image: np.ndarray, rows: Window, columns: Window, interpolation: str) -> np.ndarray:
    """The part of an image in two windows, resized. Pixels around the part count, as in Pillow's `resize(box=...)`.

    Columns are resized first and rounded, then rows. The pixels are Pillow's to the bit where it does so, too; newer
    versions take rows first at some sizes, which changes pixels by one level, and by more only where a filter
    overshoots black or white.

    Args:
      image: uint8 [H, W, 3].
      rows, columns: what of the image becomes the h rows and the w columns of the result.
      interpolation: one of `FILTERS`: "area" is the mean of what a pixel covers, OpenCV's `INTER_AREA`, also where an
        image grows; the others are Pillow's.

    Returns:
      uint8 [h, w, 3].
    """
    height, width = image.shape[:2]
    across, down = _weights(interpolation, width, columns), _weights(interpolation, height, rows)
    part = image[down.first : down.end, across.first : across.end]
    if across.matrix is not None:
        strips = [part[y : y + STRIP] for y in range(0, len(part), STRIP)]
        part = np.concatenate([cv2.transpose(_mix(cv2.transpose(strip), across.matrix)) for strip in strips])
    return part if down.matrix is None else _mix(part, down.matrix)


def _mix(image: np.ndarray, matrix: csr_array) -> np.ndarray:
    """Mixes rows, uint8 [N, W, 3] by weights [n, N], to uint8 [n, W, 3]."""
    pixels = matrix @ image.reshape(len(image), -1).astype(np.int32)
    pixels += 1 << BITS - 1
    pixels >>= BITS
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8).reshape(-1, *image.shape[1:])


class Taps(NamedTuple):
    """How an axis is resized.

    Attributes:
      first, end: the pixels of the image that are needed.
      matrix: int32 [n, end - first], in units of 1 / 2**BITS; None: these pixels, as they are.
    """

    first: int
    end: int
    matrix: csr_array | None


@functools.lru_cache(maxsize=128)
def _weights(interpolation: str, length: int, window: Window) -> Taps:
    """The weights of N = `length` pixels in each of a window's n."""
    start, end, size = window
    if end - start == size and start == int(start):
        return Taps(int(start), int(end), None)
    reach, weight = FILTERS[interpolation]
    scale = (end - start) / size
    reach *= max(scale, 1)
    centres = start + (np.arange(size) + 0.5) * scale
    if interpolation == "nearest":  # adds up, as Pillow: centres between two pixels are rounded alike
        centres = np.cumsum([start + 0.5 * scale, *[scale] * (size - 1)])
    centres = centres[:, None]
    pixels = np.floor(centres - reach).astype(np.int64) + np.arange(2 * int(np.ceil(reach)) + 1)
    weights = weight(pixels + 0.5 - centres, scale) * ((pixels >= 0) & (pixels < length))
    weights *= 2**BITS / weights.sum(1, keepdims=True)
    weights = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)
    used = weights != 0
    first, last = pixels[used].min(), pixels[used].max()
    ends = np.concatenate([[0], np.cumsum(used.sum(1))])
    of_pixels = (weights[used], (pixels[used] - first).astype(np.int32), ends.astype(np.int32))
    return Taps(int(first), int(last) + 1, csr_array(of_pixels, shape=(size, last + 1 - first)))
