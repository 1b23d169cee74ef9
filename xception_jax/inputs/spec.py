"""How pixels become a network's input. This belongs to the weights: the same network trained elsewhere may differ."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from xception_jax.inputs.choices import Resize

Colour = tuple[float, float, float]
# Of a picture: half a GiB as red, green and blue bytes, where Pillow stops, too.
MAX_PIXELS = 2**29 // 3


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The normalization of pixels.

    Attributes:
      mean, std: per colour (red, green, blue), for pixels in 0..1. 0.5 for both gives [-1, 1], as in the paper.
      standardize: use each image's own mean and deviation instead, like `tf.image.per_image_standardization`.
    """

    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    standardize: bool = False

    def __call__(self, images: UInt8[Array | np.ndarray, "B S S 3"]) -> Float[Array, "B S S 3"]:
        """The network's input, float32. Call it on the device: bytes are a quarter of the size to transfer."""
        x = jnp.asarray(images, jnp.float32)
        if self.standardize:
            axes = (1, 2, 3)
            least = 1 / math.sqrt(math.prod(images.shape[1:]))
            std = jnp.maximum(jnp.std(x, axes, keepdims=True), least)
            return (x - jnp.mean(x, axes, keepdims=True)) / std
        mean, std = (jnp.asarray(colours, jnp.float32).reshape(1, 1, 1, 3) for colours in (self.mean, self.std))
        return x / (255 * std) - mean / std


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How a picture's file becomes pixels, where there is a choice.

    Attributes:
      orientation: whether pictures are turned upright as their EXIF data says.
      background: red, green and blue, 0..255, on which transparent pictures are put.
      white: the value of white in pictures of more than 8 bits; None: by each picture, the most that the bits of its
        largest value can hold: 4095 if that is 3000. Pictures of 8 bits stay as they are.
      max_pixels: the largest height times width that is decoded.
    """

    orientation: bool = True
    background: tuple[int, int, int] = (255, 255, 255)
    white: int | None = None
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The input that a network expects.

    Attributes:
      image_size: side in pixels used in training or testing.
      crop_fraction: fraction of the image's shorter side covered by the central square in evaluation; without meaning
        unless `resize` is "crop".
      interpolation: "bilinear", "bicubic", "area", "lanczos" or "nearest", see inputs/resampling.py.
      normalization: of the pixels.
      stain: Reinhard stain normalization applied to histology tiles first (inputs/stain.py), with the target's means
        and standard deviations of L*, a* and b*, or None.
      resize: how an image of another shape becomes a square in evaluation. "crop": its central square, as in timm and
        torchvision. "squash": all of it, whatever its aspect, as in Keras' `load_img(target_size=...)`. "pad": all of
        it in its aspect, in the middle of black. Training has random crops, whichever it is.
      decoding: how a file becomes pixels.
    """

    image_size: int = 299
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    normalization: Normalization = Normalization()
    stain: tuple[Colour, Colour] | None = None
    resize: Resize = "crop"
    decoding: Decoding = Decoding()
