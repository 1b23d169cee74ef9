"""Named augmentations of photographs: RandAugment, colour jitter and random erasing.

Each is a function of a view, uint8 [S, S, 3], and its random generator to another view; its other parameters are
settings in `config.data`. S is the side; images are RGB. Published recipes were trained with Pillow's operations; these
are OpenCV's, which are several times as fast and leave other threads running. Levels differ by one or two
where Pillow cuts off decimals, and movements by a slightly sharper filter.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

GREY = (128, 128, 128)  # of what a movement uncovers
STRONGEST = 10.0  # magnitude
FILTERS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)  # of movements
LEAST_FACTOR = 0.1  # of RandAugment's enhancements, which leave an image as it is at 1
SMOOTH: np.ndarray = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's filter of this name
ERASED_AREA = (0.02, 1 / 3)  # of the view's, smallest and largest
ERASED_ASPECT = (0.3, 1 / 0.3)  # height over width
LEVELS = np.arange(256)


def looked_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The table's value at each level, [256], or [256, 3] for each colour, cut at 0 and 255."""
    bounded = np.clip(table, 0, 255).astype(np.uint8)
    return cv2.LUT(image, bounded if table.ndim == 1 else bounded[None])


def histograms(image: np.ndarray) -> np.ndarray:
    """How many pixels have each level of each colour, int [256, 3]."""
    counts = [cv2.calcHist([image], [c], None, [256], [0, 256]) for c in range(3)]
    return np.stack([np.ravel(count) for count in counts], -1).astype(np.int64)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each colour to 0..255."""
    there = histograms(image) > 0
    low, high = there.argmax(0), 255 - there[::-1].argmax(0)
    stretched = (LEVELS[:, None] - low) * 255 // np.maximum(high - low, 1)
    return looked_up(image, np.where(high > low, stretched, LEVELS[:, None]))


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes each colour's histogram as flat as it can be."""
    counts = histograms(image)
    highest = 255 - (counts > 0)[::-1].argmax(0)
    steps = (counts.sum(0) - counts[highest, range(3)]) // 255
    below = np.cumsum(counts, 0) - counts
    flattened = (steps // 2 + below) // np.maximum(steps, 1)
    return looked_up(image, np.where(steps > 0, flattened, LEVELS[:, None]))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from black, or towards it."""
    return looked_up(image, factor * LEVELS)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean of the image's grey levels, or towards it."""
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return looked_up(image, mean + factor * (LEVELS - mean))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the grey image, or towards it."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from a smoother image, or towards it; the border stays."""
    changed = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, SMOOTH), 1 - factor, 0)
    for edge in (0, -1):
        changed[edge], changed[:, edge] = image[edge], image[:, edge]
    return changed


def moved(image: np.ndarray, linear: np.ndarray, shift: tuple[float, float], resample: int) -> np.ndarray:
    """The image whose point p, from the corner, is the given one's at `linear @ p + shift`; [2, 2], (x, y)."""
    centres = linear @ (0.5, 0.5) + shift - 0.5  # a pixel's point is its centre
    affine = np.column_stack([linear, centres])
    return cv2.warpAffine(image, affine, image.shape[:2], flags=resample | cv2.WARP_INVERSE_MAP, borderValue=GREY)


def rotated(image: np.ndarray, degrees: float, resample: int) -> np.ndarray:
    """Turned around the centre, counterclockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    linear, centre = np.array([[cos, -sin], [sin, cos]]), np.full(2, image.shape[0] / 2)
    return moved(image, linear, tuple(centre - linear @ centre), resample)


class Operation(NamedTuple):
    """An operation of RandAugment.

    Attributes:
      apply: from an image, the argument, and the filter of movements to another image.
      argument: at a share 0..1 of the strongest magnitude.
      signed: whether the argument is negated with probability 1/2.
    """

    apply: Callable[[np.ndarray, float, int], np.ndarray]
    argument: Callable[[float], float] = lambda share: share
    signed: bool = False


def _enhancement(enhance: Callable[[np.ndarray, float], np.ndarray]) -> Operation:
    return Operation(
        lambda image, change, _: enhance(image, max(LEAST_FACTOR, 1 + change)), lambda share: 0.9 * share, signed=True
    )


def _shear(linear: Callable[[float], list[list[float]]]) -> Operation:
    return Operation(
        lambda image, shear, resample: moved(image, np.array(linear(shear)), (0, 0), resample),
        lambda share: 0.3 * share,
        signed=True,
    )


def _translation(x: int, y: int) -> Operation:
    def apply(image: np.ndarray, share: float, resample: int) -> np.ndarray:
        pixels = share * image.shape[0]
        return moved(image, np.eye(2), (x * pixels, y * pixels), resample)

    return Operation(apply, lambda share: 0.45 * share, signed=True)


# timm's, with the arguments of which a higher magnitude always changes more ("inc1" in its recipes).
OPERATIONS = {
    "auto_contrast": Operation(lambda image, *_: auto_contrast(image)),
    "equalize": Operation(lambda image, *_: equalize(image)),
    "invert": Operation(lambda image, *_: 255 - image),
    "rotate": Operation(rotated, lambda share: 30 * share, signed=True),
    "posterize": Operation(  # keeps some bits
        lambda image, bits, _: image & np.uint8(256 - 2 ** (8 - int(bits))), lambda share: max(1, 4 - int(4 * share))
    ),
    "solarize": Operation(  # inverts from a level on
        lambda image, level, _: looked_up(image, np.where(level <= LEVELS, 255 - LEVELS, LEVELS)),
        lambda share: 256 - int(256 * share),
    ),
    "solarize_add": Operation(
        lambda image, add, _: looked_up(image, np.where(LEVELS < 128, LEVELS + add, LEVELS)),
        lambda share: int(110 * share),
    ),
    "color": _enhancement(color),
    "contrast": _enhancement(contrast),
    "brightness": _enhancement(brightness),
    "sharpness": _enhancement(sharpness),
    "shear_x": _shear(lambda shear: [[1, shear], [0, 1]]),
    "shear_y": _shear(lambda shear: [[1, 0], [shear, 1]]),
    "translate_x": _translation(1, 0),
    "translate_y": _translation(0, 1),
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
    for name in drawn:
        strength = min(max(rng.normal(magnitude, magnitude_std), 0.0), STRONGEST)
        view = operated(view, name, strength, rng.random() < 0.5, FILTERS[rng.integers(len(FILTERS))])
    return view


def operated(image: np.ndarray, name: str, magnitude: float, negative: bool, resample: int) -> np.ndarray:
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
    enhancements = (brightness, contrast, color)
    for i in rng.permutation(len(enhancements)):
        view = enhancements[i](view, rng.uniform(max(0.0, 1 - jitter), 1 + jitter))
    return view


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
