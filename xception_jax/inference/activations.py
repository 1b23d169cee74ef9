"""Where two networks diverge: their activations, layer by layer.

Shape legend: B batch, S image side.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.data.decode import UnreadableImageError, decode
from xception_jax.errors import UserError
from xception_jax.inputs.views import central_view
from xception_jax.models import build_network, variables
from xception_jax.models.backbone import Backbone
from xception_jax.pretrained import Pretrained, fill, load, transplant

RECORDED = (nnx.Conv, nnx.BatchNorm, nnx.Linear)


def activations(model: Backbone, images: Float[Array, "B S S 3"]) -> dict[str, np.ndarray]:
    """The outputs of all layers in inference mode, by layer path, in order of computation."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state: nnx.State, images: jax.Array) -> list[jax.Array]:
        model = nnx.merge(graphdef, state)
        outputs: dict[str, jax.Array] = {}
        _record(model, outputs)
        # The reference lowering computes each layer separately.
        with ops.as_reference():
            model(images)
        names[:] = outputs
        return list(outputs.values())

    names: list[str] = []
    values = forward(state, images)
    return dict(zip(names, map(np.asarray, values), strict=True))


def _record(model: nnx.Module, outputs: dict[str, jax.Array]) -> None:
    """Makes the layers of `model` record their outputs in `outputs` when they are called.

    `nnx.capture` does not preserve the order, and some supported versions of Flax do not have it.
    """
    paths = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}

    @functools.cache
    def recording(kind: type) -> type:
        def call(self: nnx.Module, *args: Any, **kwargs: Any) -> jax.Array:
            outputs[paths[id(self)]] = result = kind.__call__(self, *args, **kwargs)
            return result

        return type(kind)(kind.__name__, (kind,), {"__call__": call})

    for _, module in nnx.iter_modules(model):
        if isinstance(module, RECORDED):
            object.__setattr__(module, "__class__", recording(type(module)))  # of this layer only


def diff(a: str, b: str, image: Path | None = None, model: str | None = None) -> list[tuple[str, float]]:
    """The difference between the activations of two networks in each layer, in order of computation.

    Args:
      a, b: weights, as for `pretrained.load`. Each network has its own options (epsilon, padding) and gets the same
        pixels, normalized as it expects.
      image: the input of both; None: noise.
      model: the network of both, as for `pretrained.load`.

    Returns:
      Layers and the maximum difference in each, relative to the layer's maximum activation in `a`.
    """
    first, second = load(a, model), load(b, model)
    if first.model != second.model:
        raise UserError(
            f"{a} is {first.model}, {b} is {second.model}: networks with different layers cannot be compared"
        )
    pixels = _pixels(first, image)
    of_a, of_b = (activations(network(p), p.input.normalization(pixels)) for p in (first, second))
    shared = [layer for layer in of_a if layer in of_b and of_a[layer].shape == of_b[layer].shape]
    return [(k, float(np.abs(of_a[k] - of_b[k]).max() / max(np.abs(of_a[k]).max(), 1e-30))) for k in shared]


def network(pretrained: Pretrained) -> Backbone:
    """The network with these weights."""
    model = build_network(pretrained.model, num_classes=pretrained.num_classes, rngs=nnx.Rngs(0), **pretrained.options)
    graphdef, fresh = variables.split(model)
    return variables.merge(graphdef, fill(fresh, transplant(pretrained, fresh)[0]))


def _pixels(pretrained: Pretrained, image: Path | None) -> np.ndarray:
    if image is None:
        size = pretrained.input.image_size
        return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    try:
        return central_view(decode(image.read_bytes(), pretrained.input.decoding), pretrained.input)[None]
    except UnreadableImageError as e:
        raise UserError(f"{image} cannot be read: {e}") from None
