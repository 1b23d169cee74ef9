"""Augmentation of histology tiles, which have no upright position, and whose stains and scanners differ.

Shape legend: S side. Images are uint8, RGB.
"""

import cv2
import numpy as np

# Densities of red, green and blue by haematoxylin, eosin and what is left (A. C. Ruifrok and D. A. Johnston, 2001).
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)
UNMIXING = np.linalg.inv(STAINS)
DENSITY = -np.log((np.arange(256) + 1.0) / 256)  # by a byte's value
TISSUE = 0.15  # density, over the three colours, below which it is glass
STAIN_CHANGE = 0.05  # of each stain's amount: a factor of 1 +- this, and this much more or less
BLUR_PROBABILITY, MOST_BLUR = 0.1, 2.0  # Slideflow's; the deviation in pixels
JPEG_PROBABILITY, LEAST_QUALITY = 0.5, 50  # Slideflow's


def augment(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A quarter turn, other amounts of stain (D. Tellez et al., 2018), perhaps a blur, perhaps JPEG's artefacts.

    Mirroring is `config.data.flip`.

    Args:
      view: uint8 [S, S, 3].
      rng: source of all randomness.

    Returns:
      uint8 [S, S, 3].
    """
    view = np.rot90(view, int(rng.integers(4)))
    view = restained(view, *rng.uniform(-STAIN_CHANGE, STAIN_CHANGE, (2, 3)))
    if rng.random() < BLUR_PROBABILITY:
        view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.1, MOST_BLUR))
    if rng.random() < JPEG_PROBABILITY:
        quality = int(rng.integers(LEAST_QUALITY, 101))
        encoded = cv2.imencode(".jpg", view[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        view = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB))
    return np.ascontiguousarray(view)


def restained(image: np.ndarray, factors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """An image with other amounts of haematoxylin, eosin and what is left.

    Args:
      image: uint8 [S, S, 3].
      factors: float [3]: of each stain, the amount is multiplied by 1 + factor,
      offsets: float [3]: and this is added where there is tissue.

    Returns:
      uint8 [S, S, 3]; white stays white.
    """
    density = DENSITY[image]
    tissue = density.sum(-1, keepdims=True) > TISSUE
    changed = (density @ UNMIXING * (1 + factors) + tissue * offsets) @ STAINS
    return np.clip(256 * np.exp(-changed) - 1 + 0.5, 0, 255).astype(np.uint8)
