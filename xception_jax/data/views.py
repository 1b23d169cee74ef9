"""From an encoded picture to the square of pixels that the network sees.

Shape legend: H height, W width, S side. Pictures are uint8, RGB.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from xception_jax.data.decode import REDUCTIONS, BrokenPictureError, decode, decode_top, read_header
from xception_jax.data.stain import Reinhard
from xception_jax.errors import UserError
from xception_jax.extension.names import Registry
from xception_jax.models.input_spec import InputSpec

# Raised by one whenever evaluated pixels change.
VERSION = 1
# Area averaging wherever a picture shrinks: the others would skip pixels between those they look at.
INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Resizes to uint8 [size, size, 3]; shrinks by area averaging."""
    shrinks = min(image.shape[:2]) > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else INTERPOLATION[interpolation])


# An augmentation of the user's: from a view, uint8 [S, S, 3], and the generator that belongs to it, to another view.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AUGMENTATIONS: Registry[Augment] = Registry("augmentation", {})


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training draws anew for each view of a picture.

    Attributes:
      crop_area: of the crop, smallest and largest share of the picture's.
      crop_aspect: of the crop, smallest and largest width over height.
      flip: whether half of the views are mirrored.
      augment: what is done to the finished view, or None.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    augment: Augment | None = None


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


def random_view(
    picture: bytes | np.ndarray, rng: np.random.Generator, spec: InputSpec, augmentation: Augmentation
) -> np.ndarray:
    """A training view: a crop of random area and aspect (Szegedy et al., 2014), resized, mirrored half of the time.

    Of a JPEG no row below the crop is decoded, and where the crop is n = 2, 4 or 8 times as large as the view, its
    pixels are decoded n times smaller. Evaluated pixels are all decoded, see `central_view`.

    Args:
      picture: encoded, or uint8 [H, W, 3].
      rng: draws all that is random.
      spec: what the network expects: size S, interpolation, stain.
      augmentation: what is drawn.

    Returns:
      uint8 [S, S, 3].

    Raises:
      BrokenPictureError: the picture cannot be decoded.
    """
    size = spec.image_size
    header = read_header(picture) if isinstance(picture, bytes) else None
    if isinstance(picture, np.ndarray) or header is None or spec.stain:  # those depend on all pixels
        image = normalize_stain(decode(picture), spec)
        crop = random_crop(rng, image.shape[0], image.shape[1], augmentation)
    else:
        crop = random_crop(rng, header.height, header.width, augmentation)
        reduction = next((n for n in REDUCTIONS if min(crop.height, crop.width) >= n * size), 1)
        top = decode_top(picture, header, crop.y + crop.height, reduction)
        if top is None:
            raise BrokenPictureError("it is a damaged JPEG picture")
        image, crop = top, crop.reduced(reduction)
    view = _resize_view(crop.of(image), size, spec.interpolation)
    if augmentation.flip and rng.random() < 0.5:
        view = cv2.flip(view, 1)
    return view if augmentation.augment is None else _augmented(view, rng, augmentation.augment)


def _augmented(view: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """What the user's augmentation makes of a view, checked."""
    result = np.asarray(augment(view, rng))
    if result.shape != view.shape or result.dtype != np.uint8:
        raise UserError(
            f"the augmentation returned {result.dtype} {list(result.shape)}; it must return uint8 {list(view.shape)}"
        )
    return result


def random_crop(rng: np.random.Generator, height: int, width: int, augmentation: Augmentation) -> Crop:
    """A rectangle of random area and aspect; where ten tries do not fit into the picture, its central square."""
    (least, most), (flattest, tallest) = augmentation.crop_area, augmentation.crop_aspect
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


# From a picture uint8 [H, W, 3] to what is seen of it, uint8 [..., S, S, 3].
Views = Callable[[np.ndarray, InputSpec], np.ndarray]


def central_view(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The evaluated view: the central square whose side is `crop_fraction` of the shorter side, resized.

    It is what resizing the shorter side to `image_size / crop_fraction` and cropping the centre shows, in one resize.

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

    Args and their meaning as of `central_view`.

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
    """The picture in the colours that histology is asked to have, or as it is."""
    return Reinhard(*spec.stain)(image) if spec.stain else image


def preprocessing_fingerprint(spec: InputSpec) -> str:
    """A hash of all that decides the pixels which evaluation sees."""
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
