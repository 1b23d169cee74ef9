"""Named augmentations of photographs: RandAugment, colour jitter and random erasing.

Each is a function of a view, uint8 [S, S, 3], and its random generator to another view; its other parameters are
settings in `config.data`. S is the side; images are RGB. Pillow computes them, as it did for the published recipes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)  # of what a movement uncovers
STRONGEST = 10.0  # magnitude
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)  # of movements
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)  # of colour jitter
LEAST_FACTOR = 0.1  # of an enhancement, which leaves the image as it is at 1
ERASED_AREA = (0.02, 1 / 3)  # of the view's, smallest and largest
ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width


class Operation(NamedTuple):
    """An operation of RandAugment.

    Attributes:
      apply: from an image, the argument, and the filter of movements to another image.
      argument: at a share 0..1 of the strongest magnitude.
      signed: whether the argument is negated with probability 1/2.
    """

    apply: Callable[[Image.Image, float, Image.Resampling], Image.Image]
    argument: Callable[[float], float] = lambda share: share
    signed: bool = False


def _enhancement(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def apply(image: Image.Image, change: float, _: Image.Resampling) -> Image.Image:
        return enhancer(image).enhance(max(LEAST_FACTOR, 1 + change))

    return Operation(apply, lambda share: 0.9 * share, signed=True)


def _movement(coefficients: Callable[[float, int], tuple[float, ...]], most: float) -> Operation:
    """The pixel at x, y comes from a x + b y + c, d x + e y + f; the coefficients follow from argument and side."""

    def apply(image: Image.Image, argument: float, resample: Image.Resampling) -> Image.Image:
        affine = coefficients(argument, image.width)
        return image.transform(image.size, Image.Transform.AFFINE, affine, resample=resample, fillcolor=GREY)

    return Operation(apply, lambda share: most * share, signed=True)


def _solarize_add(image: Image.Image, add: float, _: Image.Resampling) -> Image.Image:
    return image.point([min(255, value + int(add)) if value < 128 else value for value in range(256)] * 3)


# timm's, with the arguments of which a higher magnitude always changes more ("inc1" in its recipes).
OPERATIONS = {
    "auto_contrast": Operation(lambda image, *_: ImageOps.autocontrast(image)),
    "equalize": Operation(lambda image, *_: ImageOps.equalize(image)),
    "invert": Operation(lambda image, *_: ImageOps.invert(image)),
    "rotate": Operation(
        lambda image, degrees, resample: image.rotate(degrees, resample, fillcolor=GREY),
        lambda share: 30 * share,
        signed=True,
    ),
    "posterize": Operation(
        lambda image, bits, _: ImageOps.posterize(image, int(bits)), lambda share: max(1, 4 - int(4 * share))
    ),
    "solarize": Operation(
        lambda image, threshold, _: ImageOps.solarize(image, int(threshold)), lambda share: 256 - int(256 * share)
    ),
    "solarize_add": Operation(_solarize_add, lambda share: int(110 * share)),
    "color": _enhancement(ImageEnhance.Color),
    "contrast": _enhancement(ImageEnhance.Contrast),
    "brightness": _enhancement(ImageEnhance.Brightness),
    "sharpness": _enhancement(ImageEnhance.Sharpness),
    "shear_x": _movement(lambda shear, _: (1, shear, 0, 0, 1, 0), 0.3),
    "shear_y": _movement(lambda shear, _: (1, 0, 0, shear, 1, 0), 0.3),
    "translate_x": _movement(lambda share, side: (1, 0, share * side, 0, 1, 0), 0.45),
    "translate_y": _movement(lambda share, side: (1, 0, 0, 0, 1, share * side), 0.45),
}
NAMES = tuple(OPERATIONS)


def randaugment(
    view: np.ndarray,
    rng: np.random.Generator,
    *,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    num_operations: int = 2,
) -> np.ndarray:
    """RandAugment (E. D. Cubuk et al., arXiv 1909.13719) as in timm, where it is "rand-m9-mstd0.5-inc1".

    Args:
      view: uint8 [S, S, 3].
      rng: source of all randomness.
      magnitude: mean of each operation's magnitude, 0..10.
      magnitude_std: its standard deviation, of a normal distribution cut at 0 and 10.
      num_operations: drawn with replacement; each is done with probability 1/2.

    Returns:
      uint8 [S, S, 3].
    """
    drawn = [NAMES[i] for i in rng.integers(len(NAMES), size=num_operations) if rng.random() < 0.5]
    if not drawn:
        return view
    image = Image.fromarray(view)
    for name in drawn:
        strength = min(max(rng.normal(magnitude, magnitude_std), 0.0), STRONGEST)
        image = operated(image, name, strength, rng.random() < 0.5, FILTERS[rng.integers(len(FILTERS))])
    return np.array(image)


def operated(
    image: Image.Image, name: str, magnitude: float, negative: bool, resample: Image.Resampling
) -> Image.Image:
    """An image after one of the `OPERATIONS` at a magnitude 0..10, against its usual direction if it has one."""
    operation = OPERATIONS[name]
    argument = operation.argument(magnitude / STRONGEST)
    return operation.apply(image, -argument if negative and operation.signed else argument, resample)


def color_jitter(view: np.ndarray, rng: np.random.Generator, *, jitter: float = 0.4) -> np.ndarray:
    """Changes brightness, contrast and saturation in random order, as in timm and torchvision.

    Args:
      view: uint8 [S, S, 3].
      rng: source of all randomness.
      jitter: each is multiplied by a factor from 1 - jitter, at least 0, to 1 + jitter.

    Returns:
      uint8 [S, S, 3].
    """
    image = Image.fromarray(view)
    for i in rng.permutation(len(ENHANCERS)):
        image = ENHANCERS[i](image).enhance(rng.uniform(max(0.0, 1 - jitter), 1 + jitter))
    return np.array(image)


def erase(view: np.ndarray, rng: np.random.Generator, *, erase_probability: float = 0.25) -> np.ndarray:
    """Random erasing (Z. Zhong et al., arXiv 1708.04896): a rectangle of random bytes, as in the paper.

    timm draws the rectangle likewise, but fills it after normalization, with normally distributed numbers.

    Args:
      view: uint8 [S, S, 3].
      rng: source of all randomness.
      erase_probability: of a view.

    Returns:
      uint8 [S, S, 3].
    """
    if rng.random() >= erase_probability:
        return view
    side = view.shape[0]
    for _ in range(10):
        area = rng.uniform(*ERASED_AREA) * side**2
        aspect = math.exp(rng.uniform(*np.log(ERASED_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            y, x = rng.integers(side - height + 1), rng.integers(side - width + 1)
            view = view.copy()
            view[y : y + height, x : x + width] = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
            break
    return view
