"""How a network's input is made of pixels. It belongs to the weights: trained elsewhere, a network has another."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Pixels to numbers.

    Attributes:
      mean, std: of each colour (red, green, blue), where pixels are 0..1. A half each gives [-1, 1], as in the paper.
      standardize: of each picture instead, as `tf.image.per_image_standardization`.
    """

    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    standardize: bool = False

    def __call__(self, images: UInt8[Array | np.ndarray, "B S S 3"]) -> Float[Array, "B S S 3"]:
        """The network's input, float32. On the device: bytes are a quarter to transfer."""
        x = jnp.asarray(images, jnp.float32)
        if self.standardize:
            axes = (1, 2, 3)
            least = 1 / math.sqrt(math.prod(images.shape[1:]))
            std = jnp.maximum(jnp.std(x, axes, keepdims=True), least)
            return (x - jnp.mean(x, axes, keepdims=True)) / std
        mean, std = (jnp.asarray(colours, jnp.float32).reshape(1, 1, 1, 3) for colours in (self.mean, self.std))
        return x / (255 * std) - mean / std


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a network expects of its pictures.

    Attributes:
      image_size: side in pixels that it was trained or tested with.
      crop_fraction: share of the picture's shorter side that the evaluated central square keeps.
      interpolation: "bilinear", "bicubic" or "area".
      normalization: pixels to numbers.
      stain: means and standard deviations of L*, a* and b* that a histology tile is given before (data/stain.py), or
        None.
    """

    image_size: int = 299
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    normalization: Normalization = Normalization()
    stain: tuple[Colour, Colour] | None = None
