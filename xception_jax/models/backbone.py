"""The base of all networks: a pyramid of maps, global pooling of the last one, and a head.

Shape legend: B batch, H height, W width, S image side, h, w height and width of a map, C its channels, D channels of
the last map, K classes.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec
from xception_jax.models.head import Head
from xception_jax.models.layers import check_image_size, check_images


class Backbone(nnx.Module):
    """The base class of networks; subclasses define the maps. See docs/extending.md for networks of your own.

    In inference mode a network normalizes with running statistics and has no dropout; in training mode it normalizes
    with batch statistics, updates the running ones, and needs `rngs` if it has dropout. The `train` argument of a call
    selects the mode; by default it is the one set last by NNX's `model.train()` or `model.eval()`, initially inference.

    Attributes:
      min_image_size: minimum side of an image, in pixels.
      num_features: channels of the last map.
      head: maps the last map to logits.
      input_spec: the input that the network expects; trained weights bring their own.
      class_names: of the logits; () if unknown.
      deterministic: whether the network is in inference mode; set by `train()` and `eval()`.
      parts: its modules by name, from the image to the logits: "block1" to "head", say; `build_network` notes them.
      frozen: parts that training leaves as they are, parameters and statistics: they are always in inference mode.
      fixed_statistics: whether all parts but the head are in inference mode, though their parameters are trained.
    """

    min_image_size: int = 1
    num_features: int
    head: Head
    input_spec: InputSpec = InputSpec()
    class_names: tuple[str, ...] = ()
    deterministic: bool = True
    parts: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    fixed_statistics: bool = False

    def note_parts(self) -> None:
        """Sets `parts`, while the attributes are in the order in which they were made."""
        self.parts = tuple(name for name, part in vars(self).items() if isinstance(part, nnx.Module))

    def trains(self, part: str, train: bool) -> bool:
        """Whether a part is in training mode when the network is called with `train`."""
        return train and part not in self.frozen and (part == "head" or not self.fixed_statistics)

    def maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map at each stride, by stride, ascending; defined by subclasses."""
        raise NotImplementedError

    def preprocess(self, images: np.ndarray | Sequence[np.ndarray]) -> Float[Array, "B S S 3"]:
        """Preprocesses images of any size into the network's input.

        What the network's input specification makes of them: squares (squashed, cropped or padded), normalized.

        Args:
          images: uint8, RGB: [B, H, W, 3], one [H, W, 3], or a list of [H, W, 3] whose sizes may differ.

        Raises:
          UserError: the images are not uint8, or have other shapes.
        """
        from xception_jax.inputs.views import central_view, normalize_stain  # needs OpenCV, which the networks do not

        several = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else images
        views = []
        for image in map(np.asarray, several):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"preprocess was given {image.dtype} {list(image.shape)}; images must be uint8 "
                    "[height, width, 3] in RGB order"
                )
            views.append(central_view(normalize_stain(image, self.input_spec), self.input_spec))
        return self.input_spec.normalization(np.stack(views))

    def feature_pyramid(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map at each stride, by stride: 2, 4, 8, 16, 32; starting at half of that with `stem="small"`.

        These are the maps of timm's `features_only=True`; the last one is that of `features`.

        Args:
          images: values in [-1, 1], or as defined by `input_spec`.
          train: whether to use training mode; None: as set by `train()` or `eval()`.
          rngs: needed for stochastic depth in training mode.

        Raises:
          UserError: the images are smaller than `min_image_size`, integers, or of another shape.
        """
        check_images(images)
        check_image_size(images.shape, self.min_image_size)
        return self.maps(images, train=self._trains(train), rngs=rngs)

    def features(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B h w D"]:
        """The last map. Arguments and errors as for `feature_pyramid`."""
        *_, last = self.feature_pyramid(images, train=train, rngs=rngs).values()
        return last

    def pooled_features(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B D"]:
        """The last map as the head pools it, by default its mean over all pixels, float32.

        Arguments and errors as for `feature_pyramid`.
        """
        return self.head.pool(self.features(images, train=train, rngs=rngs))

    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K"]:
        """Logits, float32. Arguments and errors as for `feature_pyramid`; `rngs` is also used for dropout."""
        x = self.features(images, train=train, rngs=rngs)
        with jax.named_scope("head"):
            return self.head(x, train=self.trains("head", self._trains(train)), rngs=rngs)

    def _trains(self, train: bool | None) -> bool:
        return not self.deterministic if train is None else train
