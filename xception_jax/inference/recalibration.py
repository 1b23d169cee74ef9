"""Batch normalization's statistics for images of another domain, from images without labels.

Shape legend: B batch, S image side, N images.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from xception_jax import ops
from xception_jax.data import UnreadableImages, evaluation_batches
from xception_jax.data.sources.image_files import ImageFiles
from xception_jax.errors import UserError
from xception_jax.inference.activations import network
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained

BATCH = 32


def recalibrated(
    pretrained: Pretrained,
    files: Sequence[Path],
    broken: UnreadableImages,
    advance: Callable[[int], None] = lambda count: None,
    batch_size: int = BATCH,
) -> Pretrained:
    """The same parameters, with the statistics of the given images in every batch normalization.

    In one pass in training mode without dropout, each layer sees what the layers before it make with the statistics of
    the batch; its mean and variance are those of all that it saw, batches pooled (Y. Wu and J. Johnson, "Rethinking
    'Batch' in BatchNorm", arXiv 2105.07576, section 3). If all images are one batch, these are exactly the statistics
    of its inputs in inference mode.

    Args:
      pretrained: the weights.
      files: N images, seen as at inference. They are divided into batches of nearly equal size.
      broken: collects the names of unreadable images.
      advance: called with a number of images after they are seen.
      batch_size: images of a batch at most.

    Raises:
      UserError: the network has no batch normalization, or no image could be read.
    """
    graphdef, weights = _measuring(pretrained)
    names = [path for path in flatten_dict(weights.batch_stats) if path[-1] == "mean"]
    if not names:
        raise UserError(f"{pretrained.source} has no batch normalization, so there are no statistics to recompute")
    lowering = ops.trusted(ops.current(), pretrained.options.get("dtype", "float32"))

    @jax.jit
    def statistics(weights: Weights, images: jax.Array) -> dict:
        model = variables.merge(graphdef, weights)
        with ops.use(lowering):
            model(pretrained.input.normalization(images), train=True, rngs=nnx.Rngs(0))
        return variables.split(model)[1].batch_stats

    count, sums, squares = 0, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    size = math.ceil(len(files) / math.ceil(len(files) / batch_size))
    for batch in evaluation_batches(ImageFiles(files), pretrained.input, batch_size=size, broken=broken):
        images = batch["image"][batch["mask"]]
        if not len(images):
            continue
        found = flatten_dict(jax.device_get(statistics(weights, images)))
        for path in names:
            mean, variance = (np.float64(found[*path[:-1], name]) for name in ("mean", "var"))
            sums[path] += len(images) * mean
            squares[path] += len(images) * (variance + mean**2)
        count += len(images)
        advance(len(images))
    if not count:
        raise UserError("none of the images could be read")
    pooled = flatten_dict(pretrained.weights.batch_stats)
    for path in names:
        pooled[path] = np.float32(sums[path] / count)
        pooled[*path[:-1], "var"] = np.float32(squares[path] / count - (sums[path] / count) ** 2)
    return dataclasses.replace(
        pretrained,
        source=f"{pretrained.source}, statistics of {count:,} images",
        weights=Weights(pretrained.weights.params, unflatten_dict(pooled)),
        conformal=None,  # of other scores
    )


def _measuring(pretrained: Pretrained) -> tuple[nnx.GraphDef, Weights]:
    """The network without dropout, whose statistics after a call are those of the batch alone."""
    model = network(pretrained)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.0
        elif isinstance(module, nnx.Dropout):
            module.rate = 0.0
    return variables.split(model)
