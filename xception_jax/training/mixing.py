"""Mixup and CutMix: batches whose images are mixed of two, on the accelerator.

Neighbours in the batch are mixed with each other: they are on the same device, if its share of the batch is even, so
that nothing is communicated, and the result doesn't depend on the number of devices. One mixture is drawn for a batch,
as timm does by default.

Shape legend: B batch, S image side, K classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from xception_jax.evaluation.step import Batch
from xception_jax.tasks.losses import smoothed_targets

STREAM = 0x6D69780A  # apart from the step's dropout keys, which are counted from 0


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How the batches of a training are mixed.

    Attributes:
      num_classes: K.
      mixup: alpha of mixup (H. Zhang et al., arXiv 1710.09412); 0: none.
      cutmix: alpha of CutMix (S. Yun et al., arXiv 1905.04899); 0: none.
      switch: probability that a batch has CutMix, if both are used.
      label_smoothing: of the labels before they are mixed: of one class, spread over all; of several, towards 1/2.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    label_smoothing: float = 0.0

    def __call__(self, key: jax.Array, batch: Batch) -> Batch:
        """A step's batch, mixed.

        Args:
          key: the step's.
          batch: image uint8 [B, S, S, 3] with B even; label int32 [B] or float32 [B, K].

        Returns:
          image, mixed and rounded; label of the image of which there is more; target float32 [B, K], the mixed labels;
          share float32, of each image in its place, 0..1.
        """
        weights = self.draw(jax.random.fold_in(key, STREAM), batch["image"].shape[1])
        return self.mixed(batch["image"], batch["label"], weights)

    def mixed(
        self,
        images: UInt8[Array, "B S S 3"],
        labels: Int[Array, " B"] | Float[Array, "B K"],
        weights: Float[Array, "S S"],
    ) -> Batch:
        """Images and labels mixed with their neighbours' by these weights; returns as a call."""
        share = weights.mean(0).mean()  # one sum over all pixels would lose digits
        by_pixel = weights[None, :, :, None]
        pixels = images.astype(jnp.float32)
        blend = by_pixel * pixels + (1 - by_pixel) * neighbours(pixels)
        targets = smoothed_targets(labels, self.num_classes, self.label_smoothing)
        return {
            "image": jnp.round(blend).astype(jnp.uint8),
            "label": jnp.where(share >= 0.5, labels, neighbours(labels)),
            "target": share * targets + (1 - share) * neighbours(targets),
            "share": share,
        }

    def draw(self, key: jax.Array, side: int) -> Float[Array, "S S"]:
        """The weight of an image in its place, by pixel: one (mixup), or 0 in a box and 1 around it (CutMix)."""
        which, how_much, where = jax.random.split(key, 3)
        cut = jax.random.bernoulli(which, self.switch) if self.mixup and self.cutmix else jnp.bool_(self.cutmix > 0)
        alpha = jnp.where(cut, self.cutmix, self.mixup)
        lam = jax.random.beta(how_much, alpha, alpha)
        y, x = jax.random.randint(where, (2,), 0, side)
        return jnp.where(cut, outside(box(lam, y, x, side), side), lam)


def box(lam: Float[Array, ""], y: Int[Array, ""], x: Int[Array, ""], side: int) -> Int[Array, "4"]:
    """The box of CutMix: top, bottom, left, right of a square around y, x with 1 - lam of the area, clipped."""
    cut = (side * jnp.sqrt(1 - lam)).astype(jnp.int32)
    edges = jnp.stack([y - cut // 2, y + (cut + 1) // 2, x - cut // 2, x + (cut + 1) // 2])
    return jnp.clip(edges, 0, side)


def outside(edges: Int[Array, "4"], side: int) -> Float[Array, "S S"]:
    """1 outside the box and 0 inside."""
    i = jnp.arange(side)
    rows, columns = (i >= edges[0]) & (i < edges[1]), (i >= edges[2]) & (i < edges[3])
    return 1 - (rows[:, None] & columns[None, :]).astype(jnp.float32)


def neighbours(x: Array) -> Array:
    """Each pair of rows [B, ...] exchanged: 1, 0, 3, 2, ..."""
    return x.reshape(x.shape[0] // 2, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)
