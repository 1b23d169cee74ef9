"""What the networks have in common: a pyramid of maps, its last one pooled, and a head on it.

Shape legend: B batch, H height, W width, h, w those of a map, C its channels, D channels of the last one, K classes.
"""

import jax
from flax import nnx
from jaxtyping import Array, Float

from xception_jax.models.layers import Head, check_image_size, global_average


class Backbone(nnx.Module):
    """A network of which a subclass gives the maps.

    Attributes:
      min_image_size: pixels that a side of a picture must have.
      num_features: channels of the last map.
      head: what makes logits of it.
    """

    min_image_size: int
    num_features: int
    head: Head

    def _maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map of each stride, by stride, ascending."""
        raise NotImplementedError

    def feature_pyramid(
        self, images: Float[Array, "B H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The last map of each stride, by stride: 2, 4, 8, 16, 32; from half of that with `stem="small"`.

        They are the maps of timm's `features_only=True`; the last one is what `features` returns.

        Args:
          images: values in [-1, 1].
          train: normalize with the batch's statistics and update the running ones; drop paths.
          rngs: draws the paths that are dropped, where the network has stochastic depth and `train` is True.

        Raises:
          UserError: the pictures are smaller than `min_image_size`.
        """
        check_image_size(images.shape, self.min_image_size)
        return self._maps(images, train=train, rngs=rngs)

    def features(
        self, images: Float[Array, "B H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B h w D"]:
        """The last map. Arguments and errors as of `feature_pyramid`."""
        *_, last = self.feature_pyramid(images, train=train, rngs=rngs).values()
        return last

    def pooled_features(
        self, images: Float[Array, "B H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B D"]:
        """The mean of the last map over its pixels, float32. Arguments and errors as of `feature_pyramid`."""
        return global_average(self.features(images, train=train, rngs=rngs))

    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K"]:
        """Logits, float32. Arguments and errors as of `feature_pyramid`; `rngs` draws the dropout masks too."""
        x = self.features(images, train=train, rngs=rngs)
        with jax.named_scope("head"):
            return self.head(x, train=train, rngs=rngs)
