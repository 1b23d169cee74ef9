"""Where two networks part: their activations, layer by layer."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

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
        # The plain lowering, in which each layer is computed by itself.
        with ops.reference(), _recording(model) as outputs:
            model(images)
        names[:] = outputs
        return list(outputs.values())

    names: list[str] = []
    values = forward(state, images)
    return dict(zip(names, map(np.asarray, values), strict=True))


@contextlib.contextmanager
def _recording(model: nnx.Module) -> Iterator[dict[str, jax.Array]]:
    """Within the context, what the layers of `model` return, as they are called."""
    paths = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}
    outputs: dict[str, jax.Array] = {}

    with contextlib.ExitStack() as stack:
        for kind in RECORDED:
            stack.enter_context(mock.patch.object(kind, "__call__", _recorded(kind.__call__, paths, outputs)))
        yield outputs


def _recorded(call: Callable, paths: dict[int, str], outputs: dict[str, jax.Array]) -> Callable:
    """A layer's method that also notes what it returns."""

    def recorded(module: nnx.Module, *args: Any, **kwargs: Any) -> jax.Array:
        result = call(module, *args, **kwargs)
        if id(module) in paths:
            outputs[paths[id(module)]] = result
        return result

    return recorded
