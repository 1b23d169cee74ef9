"""Predictions of trained networks for images.

Shape legend: B batch, V views of an image (test-time crops), S image side, K classes, D features.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xception_jax import ops
from xception_jax.data import UnreadableImages, evaluation_batches
from xception_jax.data.sources.image_files import ImageFiles
from xception_jax.errors import UserError
from xception_jax.inference.grad_cam import grad_cam
from xception_jax.inference.mc_dropout import monte_carlo_dropout
from xception_jax.inference.placed import placed
from xception_jax.inputs.views import central_view, ten_views
from xception_jax.models import variables
from xception_jax.models.head import SCORES
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import batch_sharded, data_mesh, put_batch, replicated
from xception_jax.pretrained import Pretrained

VIEWS = {1: central_view, 10: ten_views}


@dataclasses.dataclass
class Prediction:
    """A network's prediction for one image.

    Attributes:
      file: the image.
      scores: float32 [K], probabilities, or logits if the weights' `scores` are "linear"; means over the views.
      uncertainty: float32 [K], standard deviations of the scores under dropout; zero unless the weights ask for it.
      features: float32 [D], the last map as the head pools it, a mean over the views.
      view: uint8 [S, S, 3], the first view of the image, as seen by the network.
      evidence: float32 [h, w], 0..1, where in the view the top class is seen.
    """

    file: str
    scores: np.ndarray
    uncertainty: np.ndarray
    features: np.ndarray
    view: np.ndarray
    evidence: np.ndarray


class Predictor:
    """A trained network, compiled for all devices.

        predictor = Predictor(load_pretrained("imagenet"))
        for prediction in predictor([Path("cat.jpg")]):
            print(prediction.file, prediction.scores.argmax())

    Args:
      pretrained: the weights, with a logits layer.
      batch_size: images per batch, rounded up to a multiple of the number of devices.
      crops: number of views per image whose scores are averaged, 1 or 10.
      image_size: S; None: that of the weights.

    Raises:
      UserError: the weights have no logits layer, S is too small, or there is no such number of crops.
    """

    def __init__(self, pretrained: Pretrained, *, batch_size: int = 16, crops: int = 1, image_size: int | None = None):
        if not isinstance(pretrained, Pretrained):
            raise UserError(
                f"a Predictor takes weights, not a {type(pretrained).__name__}: Predictor(load_pretrained(...))"
            )
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
        if not pretrained.num_classes:
            raise UserError(f"{pretrained.source} has no logits layer, so it cannot classify; fine-tune it first")
        if crops not in VIEWS:
            raise UserError(f"crops is {crops!r}; it must be {' or '.join(map(str, VIEWS))}")
        self.pretrained = pretrained
        self._mesh = data_mesh()
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._views = VIEWS[crops]
        size = pretrained.input.image_size if image_size is None else image_size
        self.input = dataclasses.replace(pretrained.input, image_size=size)
        self._step = self._compile()

    def _compile(self) -> Any:
        given = self.pretrained
        graphdef, self._weights, lowering = placed(given, self._mesh)

        def step(weights: Weights, views: jax.Array) -> dict[str, jax.Array]:
            model = variables.merge(graphdef, weights)
            batch = views.shape[0]
            images = given.input.normalization(views.reshape(-1, *views.shape[-3:]))
            with ops.use(lowering), jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                maps = model.features(images)
            pooled = model.head.pool(maps)
            if given.uncertainty:  # always the same masks, so that the same images get the same scores
                scores, deviations = monte_carlo_dropout(model.head, pooled, jax.random.key(0), scores=given.scores)
            else:
                logits = model.head.classify(pooled, train=False, drop=False, rngs=None)
                scores = SCORES[given.scores](logits)
                deviations = jnp.zeros_like(scores)
            means = {"scores": scores, "uncertainty": deviations, "features": pooled}
            outputs = {name: x.reshape(batch, -1, x.shape[-1]).mean(1) for name, x in means.items()}
            first = maps.reshape(batch, -1, *maps.shape[1:])[:, 0]
            return outputs | {"evidence": grad_cam(model, first, jnp.argmax(outputs["scores"], -1))}

        on_all, side = replicated(self._mesh), self.input.image_size
        jitted = jax.jit(step, in_shardings=(on_all, batch_sharded(self._mesh)), out_shardings=on_all)
        views = self._views(np.zeros((side, side, 3), np.uint8), self.input)
        return jitted.lower(self._weights, jax.ShapeDtypeStruct((self.batch_size, *views.shape), np.uint8)).compile()

    def __call__(
        self, files: Sequence[str | Path], broken: UnreadableImages | None = None, treated: list[str] | None = None
    ) -> Iterator[Prediction]:
        """The predictions for image files, in order; unreadable images are skipped.

        The next batch is dispatched before the results of the previous one are read.

        Args:
          files: the images' paths.
          broken: collects the names of unreadable images; None: they are only logged as warnings.
          treated: collects what is done to images that are not ordinary, see `data.decode`.

        Raises:
          UserError: `files` is one path.
        """
        if isinstance(files, str | Path):
            raise UserError(f"a Predictor takes a list of files; for one, predictor([{str(files)!r}])")
        broken = UnreadableImages() if broken is None else broken
        source = ImageFiles([Path(file) for file in files])
        options: dict[str, Any] = {"batch_size": self.batch_size, "broken": broken, "treated": treated}
        batches = evaluation_batches(source, self.input, views=self._views, **options)
        pending: tuple[dict, dict] | None = None
        for batch in batches:
            outputs = self._step(self._weights, put_batch({"image": batch["image"]}, self._mesh)["image"])
            if pending is not None:
                yield from self._rows(source, *pending)
            pending = batch, outputs
        if pending is not None:
            yield from self._rows(source, *pending)

    def _rows(self, source: ImageFiles, batch: dict[str, np.ndarray], outputs: dict[str, jax.Array]) -> Iterator:
        host = jax.device_get(outputs)
        for row in np.flatnonzero(batch["mask"]):
            view = batch["image"][row].reshape(-1, *batch["image"].shape[-3:])[0]
            yield Prediction(
                source.example_id(int(batch["index"][row])),
                host["scores"][row],
                host["uncertainty"][row],
                host["features"][row],
                view,
                host["evidence"][row],
            )
