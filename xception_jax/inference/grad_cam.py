"""Where in an image a network sees a class: Grad-CAM (Selvaraju et al., 2017).

Shape legend: B batch, S image side, h side of the last map, D its channels.
"""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xception_jax.models.backbone import Backbone

STRENGTH = 0.5  # opacity of the colours over the image


def grad_cam(model: Backbone, maps: Float[Array, "B h w D"], classes: Int[Array, " B"]) -> Float[Array, "B h w"]:
    """The evidence for a class at each position of the last map, scaled so that the maximum is 1.

    The channels' weights are the mean gradients of the class's logit. If the head is a single layer on pooled features,
    as in Xception, this is the class activation map of Zhou et al. (2016).

    Args:
      model: the network, in inference mode; only its head is used.
      maps: `model.features` of the images.
      classes: one per image.
    """

    def logits(maps: jax.Array) -> jax.Array:
        outputs = model.head(maps, train=False, rngs=None)
        return jnp.take_along_axis(outputs, classes[:, None], axis=1).sum()

    weights = jnp.mean(jax.grad(logits)(maps), axis=(1, 2), keepdims=True)
    evidence = jax.nn.relu(jnp.sum(weights * maps, axis=-1)).astype(jnp.float32)
    return evidence / jnp.maximum(evidence.max(axis=(1, 2), keepdims=True), 1e-12)


def overlay(image: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The image next to the image overlaid with a heat map of the evidence, yellow where it is strongest.

    Args:
      image: uint8 [S, S, 3].
      evidence: [h, h], 0..1.

    Returns:
      uint8 [S, 2 S, 3].
    """
    side = image.shape[0]
    smooth = cv2.resize(np.asarray(evidence, np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    levels = (255 * smooth.clip(0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return np.hstack([image, cv2.addWeighted(image, 1 - STRENGTH, colours, STRENGTH, 0)])
