"""What the networks have in common: a pyramid of maps, its last one pooled, and a head on it.

Shape legend: B batch, H height, W width, S image side, h, w those of a map, C its channels, D channels of the last one,
K classes.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec
from xception_jax.models.layers import Head, check_image_size, global_average


class Backbone(nnx.Module):
    """A network of which a subclass gives the maps. Networks of your own are subclasses, see docs/extending.md.

    In inference mode a network normalizes with running statistics and drops nothing; in training mode it normalizes
    with the batch's own, updates the running ones, and needs `rngs` if it drops anything. `train=` of a call chooses;
    where it is left out, what NNX' `model.train()` or `model.eval()` was called last, and inference before either.

    Attributes:
      min_image_size: pixels that a side of an image must have.
      num_features: channels of the last map.
      head: what makes logits of it.
      input_spec: what the network expects of its images; trained weights bring their own.
      class_names: of the logits; () if they are not known.
      deterministic: whether it is in inference mode; `train()` and `eval()` set it.
    """

    min_image_size: int = 1
    num_features: int
    head: Head
    input_spec: InputSpec = InputSpec()
    class_names: tuple[str, ...] = ()
    deterministic: bool = True

    def maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map of each stride, by stride, ascending: what a subclass defines."""
        raise NotImplementedError

    def preprocess(self, images: np.ndarray | Sequence[np.ndarray]) -> Float[Array, "B S S 3"]:
        """What the network is to be called with, of images of any size.

        The central square that the network's input specification keeps, resized, in the range it expects.

        Args:
          images: uint8, RGB: [B, H, W, 3], one [H, W, 3], or a list of [H, W, 3] whose sizes may differ.

        Raises:
          UserError: they are not uint8, or of other shapes.
        """
        from xception_jax.inputs.views import central_view, normalize_stain  # OpenCV, which networks do not need

        several = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else images
        views = []
        for image in map(np.asarray, several):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"preprocess was given {image.dtype} {list(image.shape)}; it takes images of uint8, "
                    "[height, width, 3], red first"
                )
            views.append(central_view(normalize_stain(image, self.input_spec), self.input_spec))
        return self.input_spec.normalization(np.stack(views))

    def feature_pyramid(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map of each stride, by stride: 2, 4, 8, 16, 32; from half of that with `stem="small"`.

        They are the maps of timm's `features_only=True`; the last one is what `features` returns.

        Args:
          images: values in [-1, 1], or as `input_spec` says.
          train: whether in training mode; None: as `train()` and `eval()` have set it.
          rngs: draws the paths that are dropped, if the network has stochastic depth and is in training mode.

        Raises:
          UserError: the images are smaller than `min_image_size`.
        """
        check_image_size(images.shape, self.min_image_size)
        return self.maps(images, train=self._trains(train), rngs=rngs)

    def features(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B h w D"]:
        """The last map. Arguments and errors as of `feature_pyramid`."""
        *_, last = self.feature_pyramid(images, train=train, rngs=rngs).values()
        return last

    def pooled_features(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B D"]:
        """The mean of the last map over its pixels, float32. Arguments and errors as of `feature_pyramid`."""
        return global_average(self.features(images, train=train, rngs=rngs))

    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K"]:
        """Logits, float32. Arguments and errors as of `feature_pyramid`; `rngs` draws the dropout masks too."""
        x = self.features(images, train=train, rngs=rngs)
        with jax.named_scope("head"):
            return self.head(x, train=self._trains(train), rngs=rngs)

    def _trains(self, train: bool | None) -> bool:
        return not self.deterministic if train is None else train
