"""Training views: random crops and other augmentation, drawn anew each time an image is used.

Shape legend: H height, W width, S side. Images are uint8, RGB.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from xception_jax.data import histology, policies
from xception_jax.data.decode import (
    COLUMNS_REVERSED,
    EXCHANGED,
    REDUCTIONS,
    ROWS_REVERSED,
    UnreadableImageError,
    check_size,
    decode,
    decode_top,
    ended,
    upright,
)
from xception_jax.data.headers import read_header
from xception_jax.errors import UserError
from xception_jax.extension.names import Registry, wanted
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.views import normalize_stain

# OpenCV's, which are faster than `inputs.resampling`: an augmented picture needs no exact filter.
OPENCV = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
# From a view, uint8 [S, S, 3], and its random generator to another view; options are keyword arguments.
Augment = Callable[..., np.ndarray]
AUGMENTATIONS: Registry[Augment] = Registry(
    "augmentation",
    {
        "color_jitter": policies.color_jitter,
        "erase": policies.erase,
        "histology": histology.augment,
        "randaugment": policies.randaugment,
    },
)


def register_augmentation(name: str, function: Augment) -> Augment:
    """Registers your own augmentation under a name for configs, in this process.

    Args:
      name: any name without a colon.
      function: from a view, uint8 [S, S, 3], and its random generator to another view; other parameters are settings of
        `config.data` or `config.user`.

    Returns:
      `function`.
    """
    return AUGMENTATIONS.register(name, function)


def find_augmentations(names: str, options: Mapping[str, Any]) -> tuple[Augment, ...]:
    """The augmentations named, separated by commas, with the options bound that they have parameters for.

    Raises:
      UserError: unknown name, or an augmentation needs other options.
    """
    found = [(name, AUGMENTATIONS.find(name)) for name in map(str.strip, names.split(",")) if name]
    return tuple(
        functools.partial(augment, **wanted(augment, options, 2, f'augmentation "{name}"', "data"))
        for name, augment in found
    )


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random transformations of training views.

    Attributes:
      crop_area: smallest and largest area of the crop, as a fraction of the image's.
      crop_aspect: smallest and largest width over height of the crop.
      flip: whether views are mirrored with probability 1/2.
      augment: applied to the finished view, one after the other.
      repeats: how often each example is in a batch, each time with other transformations.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    augment: tuple[Augment, ...] = ()
    repeats: int = 1


class Crop(NamedTuple):
    """A rectangle of an image, in pixels."""

    y: int
    x: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an image inside the rectangle; a view, not a copy."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]

    def reduced(self, reduction: int) -> "Crop":
        """The same rectangle in the image reduced by `reduction`."""
        ends = ((n + reduction // 2) // reduction for n in (self.y, self.x, self.y + self.height, self.x + self.width))
        top, left, bottom, right = ends
        return Crop(top, left, bottom - top, right - left)

    def as_stored(self, orientation: int, height: int, width: int) -> "Crop":
        """The same part of a picture of `height` and `width`, as it is stored with an EXIF orientation."""
        if orientation == 1:
            return self
        y = height - self.y - self.height if orientation in ROWS_REVERSED else self.y
        x = width - self.x - self.width if orientation in COLUMNS_REVERSED else self.x
        stored = Crop(y, x, self.height, self.width)
        return Crop(x, y, self.width, self.height) if orientation in EXCHANGED else stored


def random_view(
    encoded: bytes | np.ndarray, rng: np.random.Generator, spec: InputSpec, augmentation: Augmentation
) -> np.ndarray:
    """A training view: a crop of random area and aspect (Szegedy et al., 2014), resized, perhaps mirrored.

    In JPEG files, rows below the crop are not decoded, and a crop that is n = 2, 4 or 8 times as large as the view is
    decoded at 1/n of its size. Evaluation decodes all pixels, see `inputs.views.central_view`.

    Args:
      encoded: a file's bytes, or pixels, uint8 [H, W, 3].
      rng: source of all randomness.
      spec: the network's input: size S, interpolation, stain normalization.
      augmentation: the random transformations.

    Returns:
      uint8 [S, S, 3].

    Raises:
      UnreadableImageError: the image cannot be decoded.
    """
    size, rules = spec.image_size, spec.decoding
    header = read_header(encoded) if isinstance(encoded, bytes) else None
    if isinstance(encoded, np.ndarray) or header is None or spec.stain:  # these need all pixels
        image = normalize_stain(decode(encoded, rules), spec)
        image = random_crop(rng, image.shape[0], image.shape[1], augmentation).of(image)
    else:
        check_size(header.height, header.width, rules)
        encoded, orientation = ended(encoded, header), header.orientation if rules.orientation else 1
        shape = header.height, header.width
        shape = shape[::-1] if orientation in EXCHANGED else shape
        crop = random_crop(rng, *shape, augmentation).as_stored(orientation, *shape)
        reduction = next((n for n in REDUCTIONS if min(crop.height, crop.width) >= n * size), 1)
        top = decode_top(encoded, header, crop.y + crop.height, reduction)
        if top is None:
            raise UnreadableImageError("a JPEG picture that is damaged")
        image = upright(crop.reduced(reduction).of(top), orientation)
    view = _resize_view(image, size, spec.interpolation)
    if augmentation.flip and rng.random() < 0.5:
        view = cv2.flip(view, 1)
    for augment in augmentation.augment:
        view = _augmented(view, rng, augment)
    return view


def _augmented(view: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """Applies an augmentation, perhaps the user's, to a view and checks the result."""
    result = np.asarray(augment(view, rng))
    if result.shape != view.shape or result.dtype != np.uint8:
        raise UserError(
            f"the augmentation returned {result.dtype} {list(result.shape)}; it must return uint8 {list(view.shape)}"
        )
    return result


def random_crop(rng: np.random.Generator, height: int, width: int, augmentation: Augmentation) -> Crop:
    """A rectangle of random area and aspect; the image's central square if ten draws do not fit into the image."""
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
    """Resizes by OpenCV, but shrinks by 2 or more by area averaging, which is slow: there the others skip pixels."""
    shrinks = min(image.shape[:2]) >= 2 * size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else OPENCV[interpolation])
