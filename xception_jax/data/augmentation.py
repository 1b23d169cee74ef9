"""Training views: what is drawn of a picture, each time anew.

Shape legend: H height, W width, S side. Pictures are uint8, RGB.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from xception_jax.data.decode import REDUCTIONS, BrokenPictureError, decode, decode_top, read_header
from xception_jax.errors import UserError
from xception_jax.extension.names import Registry
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.views import INTERPOLATION, normalize_stain

# An augmentation of the user's: from a view, uint8 [S, S, 3], and the generator that belongs to it, to another view.
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AUGMENTATIONS: Registry[Augment] = Registry("augmentation", {})


def register_augmentation(name: str, function: Augment) -> Augment:
    """Adds an augmentation of your own, by a name that configs take.

    Args:
      name: any, without a colon.
      function: from a view, uint8 [S, S, 3], and the generator that belongs to it, to another view.

    Returns:
      `function`.
    """
    return AUGMENTATIONS.register(name, function)


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
    pixels are decoded n times smaller. Evaluated pixels are all decoded, see `inputs.views.central_view`.

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
