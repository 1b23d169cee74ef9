"""Keras' configuration of a network: the graph of layers, of which the arrays tell every size.

The layers are keras.applications' of Xception and Inception V3, with the same names and connections; before them the
range of the pixels as a Rescaling layer, after them the head. A configuration names what differs from a layer's
defaults; the rest, Keras fills in.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xception_jax.inputs.spec import InputSpec
from xception_jax.models import xception
from xception_jax.pretrained.layouts.keras import HEAD
from xception_jax.pretrained.layouts.timm import INCEPTION_BLOCKS

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its class and configuration in Keras, and the layers before it."""

    kind: str
    config: Config
    inputs: tuple[str, ...]
    rank: int  # of its result, with the batch


class Graph:
    """Layers in the order of their making, by name.

    Args:
      arrays: the network's, by "layer/variable".
      epsilon: of batch normalization.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], epsilon: float):
        self.arrays, self._epsilon = arrays, epsilon
        self.layers: dict[str, Layer] = {}
        self._made: dict[str, int] = {}

    def add(self, kind: str, inputs: Sequence[str], name: str | None = None, *, rank: int = 4, **config: Any) -> str:
        """Adds a layer; returns its name, by default Keras' own: "conv2d", "conv2d_1", .."""
        if name is None:
            stem = snake_case(kind)
            count = self._made[stem] = self._made.get(stem, -1) + 1
            name = f"{stem}_{count}" if count else stem
        self.layers[name] = Layer(kind, {"name": name, "dtype": "float32"} | config, tuple(inputs), rank)
        return name

    def conv(self, x: str, name: str | None = None, *, strides: int = 1, padding: str = "same") -> str:
        """A convolution without bias."""
        name = self.add("Conv2D", [x], name)
        height, width, _, filters = self.arrays[f"{name}/kernel"].shape
        size = {"filters": filters, "kernel_size": [height, width], "strides": [strides, strides]}
        self.layers[name].config.update(size, padding=padding, use_bias=False)
        return name

    def separable(self, x: str, name: str) -> str:
        """A separable 3x3 convolution that keeps the size, without bias."""
        filters = self.arrays[f"{name}/pointwise_kernel"].shape[-1]
        return self.add(
            "SeparableConv2D", [x], name, filters=filters, kernel_size=[3, 3], padding="same", use_bias=False
        )

    def norm(self, x: str, name: str | None = None) -> str:
        """Batch normalization, with a gamma if there is one among the arrays."""
        name = self.add("BatchNormalization", [x], name, axis=-1, epsilon=self._epsilon, rank=self.layers[x].rank)
        self.layers[name].config["scale"] = f"{name}/gamma" in self.arrays
        return name

    def relu(self, x: str, name: str | None = None) -> str:
        """A ReLU."""
        return self.add("Activation", [x], name, activation="relu")

    def pool(self, kind: str, x: str, name: str | None = None, *, strides: int, padding: str) -> str:
        """A pool over 3x3 pixels: "Max" or "Average"."""
        window, step = [3, 3], [strides, strides]
        return self.add(f"{kind}Pooling2D", [x], name, pool_size=window, strides=step, padding=padding)

    def dense(self, x: str, name: str, activation: str) -> str:
        """A dense layer with bias."""
        units = self.arrays[f"{name}/kernel"].shape[-1]
        return self.add("Dense", [x], name, rank=2, units=units, activation=activation)

    def dropout(self, x: str, rate: float) -> str:
        """Dropout, if its rate is above 0."""
        return self.add("Dropout", [x], rank=2, rate=rate) if rate else x


def keras_config(
    model: str,
    arrays: Mapping[str, np.ndarray],
    spec: InputSpec,
    *,
    options: Mapping[str, Any],
    activation: str,
) -> Config:
    """The configuration of a Functional model.

    Args:
      model: "xception", or "inception_v3" of flavour "keras".
      arrays: by "layer/variable": Keras' names, and "hidden_0", "hidden_0_bn", .. for the hidden layers.
      spec: its size S, and its normalization, which becomes a Rescaling layer: the model takes [B, S, S, 3], 0..255.
        With each image's own mean and deviation there is no such layer: the model takes what they give.
      options: of ours: `bn_epsilon`, `dropout`, `hidden_dropout`, and `hidden`.
      activation: of the logits, "softmax", "sigmoid" or "linear".
    """
    graph = Graph(arrays, options.get("bn_epsilon", 1e-3))
    side = spec.image_size
    first = x = graph.add("InputLayer", [], batch_shape=[None, side, side, 3])
    if not spec.normalization.standardize:
        x = graph.add("Rescaling", [x], **rescaling(spec))
    x = (_xception if model == "xception" else _inception_v3)(graph, x)
    last = _head(graph, x, options, activation)
    layers = in_keras_order(graph.layers, last)
    functional = {
        "name": model,
        "layers": [_layer(graph, name) for name in layers],
        "input_layers": [[first, 0, 0]],
        "output_layers": [[last, 0, 0]],
    }
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": functional} | {
        "registered_name": "Functional"
    }


def rescaling(spec: InputSpec) -> Config:
    """The Rescaling layer that is the normalization of pixels 0..255: one number if the colours are treated alike."""
    mean, std = spec.normalization.mean, spec.normalization.std
    scale, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    alike = len({*zip(mean, std, strict=True)}) == 1
    return {"scale": scale[0], "offset": offset[0]} if alike else {"scale": scale, "offset": offset}


def _head(graph: Graph, x: str, options: Mapping[str, Any], activation: str) -> str:
    """Our head: average pool, hidden layers (dropout, dense, ReLU, batch normalization), dropout, logits."""
    x = graph.add("GlobalAveragePooling2D", [x], "avg_pool", rank=2)
    for i in range(len(options.get("hidden", ()))):
        x = graph.dense(graph.dropout(x, options.get("hidden_dropout", 0.0)), f"hidden_{i}", "relu")
        if options.get("hidden_norm"):
            x = graph.norm(x, f"hidden_{i}_bn")
    x = graph.dropout(x, options.get("dropout", 0.0))
    return graph.dense(x, HEAD, activation) if f"{HEAD}/kernel" in graph.arrays else x


def _xception(graph: Graph, x: str) -> str:
    for i, strides in ((1, 2), (2, 1)):
        x = graph.norm(graph.conv(x, f"block1_conv{i}", strides=strides, padding="valid"), f"block1_conv{i}_bn")
        x = graph.relu(x, f"block1_conv{i}_act")
    for block, widths, stride in xception.ENTRY + xception.MIDDLE + xception.EXIT:
        if f"{block}_sepconv1/pointwise_kernel" not in graph.arrays:  # of fewer middle blocks
            continue
        shortcut = x if stride == 1 else graph.norm(graph.conv(x, strides=stride))
        for i in range(1, len(widths) + 1):
            if i > 1 or block != "block2":
                x = graph.relu(x, f"{block}_sepconv{i}_act")
            x = graph.norm(graph.separable(x, f"{block}_sepconv{i}"), f"{block}_sepconv{i}_bn")
        if stride != 1:
            x = graph.pool("Max", x, f"{block}_pool", strides=stride, padding="same")
        x = graph.add("Add", [x, shortcut])
    for i in (1, 2):
        x = graph.norm(graph.separable(x, f"block14_sepconv{i}"), f"block14_sepconv{i}_bn")
        x = graph.relu(x, f"block14_sepconv{i}_act")
    return x


def _inception_v3(graph: Graph, x: str) -> str:
    x = _unit(graph, x, strides=2, padding="valid")
    x = _unit(graph, _unit(graph, x, padding="valid"))
    x = graph.pool("Max", x, strides=2, padding="valid")
    x = _unit(graph, _unit(graph, x, padding="valid"), padding="valid")
    x = graph.pool("Max", x, strides=2, padding="valid")
    for i, branches in enumerate(INCEPTION_BLOCKS.values()):
        x = _inception_block(graph, x, i, branches)
    return x


def _unit(graph: Graph, x: str, *, strides: int = 1, padding: str = "same") -> str:
    """Convolution, batch normalization and ReLU."""
    return graph.relu(graph.norm(graph.conv(x, strides=strides, padding=padding)))


def _inception_block(graph: Graph, x: str, number: int, branches: Mapping[str, str]) -> str:
    """A block of parallel branches. The branches "_a" and "_b" split the result of the branch before them."""
    halves = number in (3, 8)
    ends: dict[str, str] = {}
    for branch, units in branches.items():
        if branch.endswith("_a"):
            ends[branch] = _unit(graph, ends[branch[:-2]])
            continue
        if branch.endswith("_b"):
            stem = branch[:-2]
            split = [ends.pop(f"{stem}_a"), _unit(graph, ends[stem])]
            ends[stem] = graph.add("Concatenate", split, f"mixed9_{number - 9}" if stem == "branch3x3" else None)
            continue
        y = graph.pool("Average", x, strides=1, padding="same") if branch == "branch_pool" else x
        *inner, _ = units.split()
        for _ in inner:
            y = _unit(graph, y)
        ends[branch] = _unit(graph, y, strides=2, padding="valid") if halves else _unit(graph, y)
    if halves:
        ends["pool"] = graph.pool("Max", x, strides=2, padding="valid")
    return graph.add("Concatenate", [*ends.values()], f"mixed{number}", axis=-1)


def in_keras_order(layers: dict[str, Layer], last: str) -> list[str]:
    """The names of the layers as Keras orders them, in `model.layers` and in files.

    By their distance from the output, the farthest first; of the same distance, as one comes to them from the output,
    the inputs of a layer from first to last.

    Args:
      layers: each after its inputs.
      last: the output.
    """
    distance = dict.fromkeys(layers, 0)
    for name in reversed(layers):
        for before in layers[name].inputs:
            distance[before] = max(distance[before], distance[name] + 1)
    seen: dict[str, int] = {}
    waiting = [last]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen[name] = len(seen)
            waiting += reversed(layers[name].inputs)
    return sorted(seen, key=lambda name: (-distance[name], seen[name]))


def groups(config: Config) -> dict[str, str]:
    """Where a .keras file has the arrays of each layer: by class, numbered in Keras' order."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for layer in config["config"]["layers"]:
        kind = snake_case(layer["class_name"])
        count = counts[kind] = counts.get(kind, -1) + 1
        found[layer["name"]] = f"layers/{kind}_{count}" if count else f"layers/{kind}"
    return found


def snake_case(kind: str) -> str:
    """A class name as Keras writes it in the names of layers: "conv2d", "batch_normalization"."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _layer(graph: Graph, name: str) -> Config:
    """A layer as Keras serializes it, with references to the results of those before it."""
    layer = graph.layers[name]
    results = [_tensor(before, graph.layers[before].rank) for before in layer.inputs]
    arguments: list[Any] = [results if layer.kind in ("Add", "Concatenate") else results[0]] if results else []
    return {
        "module": "keras.layers",
        "class_name": layer.kind,
        "config": layer.config,
        "registered_name": None,
        "name": name,
        "inbound_nodes": [{"args": arguments, "kwargs": {}}] if arguments else [],
    }


def _tensor(layer: str, rank: int) -> Config:
    config = {"shape": [None] * rank, "dtype": "float32", "keras_history": [layer, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
