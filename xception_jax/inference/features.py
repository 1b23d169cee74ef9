"""The features of a trained network's backbone, for training on top of it.

Shape legend: N examples, D features.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from xception_jax import ops
from xception_jax.data import Source, UnreadableImages, evaluation_batches
from xception_jax.inference.placed import placed
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import batch_sharded, data_mesh, put_batch, replicated
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained.transplant import HEADS

# Options of networks that describe what comes after the last map.
HEAD_OPTIONS = ("head", "hidden", "hidden_norm", "hidden_dropout", "dropout", "aux_head")


def backbone_of(pretrained: Pretrained, pool: str = "avg_pool") -> Pretrained:
    """The weights without their head; `pool` is how the last map becomes features."""
    options = {name: value for name, value in pretrained.options.items() if name not in HEAD_OPTIONS}
    if pool != "avg_pool":
        options["head"] = pool
    parts = {name: part for name, part in pretrained.weights.params.items() if name not in HEADS}
    statistics = {name: part for name, part in pretrained.weights.batch_stats.items() if name not in HEADS}
    weights = Weights(parts, statistics)
    return dataclasses.replace(
        pretrained, options=options, num_classes=0, class_names=(), weights=weights, conformal=None
    )


class FeatureExtractor:
    """A network's backbone, compiled for all devices.

    Args:
      backbone: the weights, as from `backbone_of`.
      batch_size: images per batch, rounded up to a multiple of the number of devices.
    """

    def __init__(self, backbone: Pretrained, *, batch_size: int = 16):
        self.backbone = backbone
        self._mesh = data_mesh()
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._step = self._compile()

    def _compile(self) -> Any:
        given = self.backbone
        graphdef, self._weights, lowering = placed(given, self._mesh)

        def step(weights: Weights, images: jax.Array) -> jax.Array:
            with ops.use(lowering), jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return variables.merge(graphdef, weights).pooled_features(given.input.normalization(images))

        on_all = replicated(self._mesh)
        return jax.jit(step, in_shardings=(on_all, batch_sharded(self._mesh)), out_shardings=on_all)

    def __call__(
        self, source: Source, broken: UnreadableImages, treated: list[str] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The features of a source's images, batch by batch, in order; unreadable images are skipped.

        The next batch is dispatched before the results of the previous one are read.

        Args:
          source: the images.
          broken: collects the names of unreadable images.
          treated: collects what is done to images that are not ordinary, see `data.decode`.

        Yields:
          Positions in the source, int32 [n], and features, float32 [n, D].
        """
        pending: tuple[dict, jax.Array] | None = None
        batches = evaluation_batches(
            source, self.backbone.input, batch_size=self.batch_size, broken=broken, treated=treated
        )
        for batch in batches:
            outputs = self._step(self._weights, put_batch({"image": batch["image"]}, self._mesh)["image"])
            if pending is not None:
                yield _kept(*pending)
            pending = batch, outputs
        if pending is not None:
            yield _kept(*pending)


def _kept(batch: dict[str, np.ndarray], outputs: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are images, not padding."""
    return batch["index"][batch["mask"]], np.asarray(outputs)[batch["mask"]]
