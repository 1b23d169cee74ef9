"""Where two networks part: their activations, layer by layer."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.models.backbone import Backbone

RECORDED = (nnx.Conv, nnx.BatchNorm, nnx.Linear)


def activations(model: Backbone, images: Float[Array, "B S S 3"]) -> dict[str, np.ndarray]:
    """The outputs of all layers in inference mode, by the layer's path, in the order in which they are computed."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state: nnx.State, images: jax.Array) -> list[jax.Array]:
        model = nnx.merge(graphdef, state)
        outputs: dict[str, jax.Array] = {}
        _record(model, outputs)
        # The plain lowering, in which each layer is computed by itself.
        with ops.reference():
            model(images)
        names[:] = outputs
        return list(outputs.values())

    names: list[str] = []
    values = forward(state, images)
    return dict(zip(names, map(np.asarray, values), strict=True))


def _record(model: nnx.Module, outputs: dict[str, jax.Array]) -> None:
    """From now on, the layers of `model` put what they return into `outputs`, as they are called.

    `nnx.capture` loses their order, and is not in all versions of Flax that are supported.
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
            object.__setattr__(module, "__class__", recording(type(module)))  # of this layer, not of others
