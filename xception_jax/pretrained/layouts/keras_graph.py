"""What a Keras file's own graph says: what is done to pixels before the backbone, and what comes after it.

The backbone is Keras' Xception or Inception V3, anywhere in the graph; it is found by its last layer, and its layers
are counted. Everything between the input and its first convolution must be an affine function of each colour;
everything after its last layer a chain of steps of `models.head`.

Shape legend: D channels of the last map, F features, K classes.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats.layer_graph import Layer
from xception_jax.inputs.spec import Normalization
from xception_jax.models.head import SCORES, Scores, Step
from xception_jax.models.xception import MIDDLE

Tensors = Mapping[str, np.ndarray]

# The last layer of each network, and how many layers of each class it has.
LAST = {"block14_sepconv2_act": "xception", "mixed10": "inception_v3"}
LAYERS = {
    "xception": {"Conv2D": 6, "SeparableConv2D": 34, "BatchNormalization": 40, "MaxPooling2D": 4, "Add": 12},
    "inception_v3": {"Conv2D": 94, "BatchNormalization": 94, "MaxPooling2D": 4, "AveragePooling2D": 9},
}
IN_A_MIDDLE_BLOCK = {"SeparableConv2D": 3, "BatchNormalization": 3, "Add": 1}  # of Xception's
BN_EPSILON = 1e-3
INSTEAD = "; FILE@backbone loads the network without its head"

# At inference these do nothing.
IDENTITY = {
    "Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization",
    "Identity", "InputLayer", "RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness",
    "RandomTranslation", "RandomHeight", "RandomWidth", "RandomShear", "RandomHue", "RandomSaturation",
    "RandomColorJitter", "RandomColorDegeneration", "RandomGrayscale", "RandomSharpness", "RandomPosterization",
    "RandomPerspective", "RandomErasing", "RandomGaussianBlur", "RandomElasticTransform", "RandomInvert",
    "RandAugment", "AugMix", "CutMix", "MixUp",
}  # fmt: skip
# Keras' names of activations, as ours.
ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "elu": "elu", "selu": "selu", "gelu": "gelu", "silu": "silu", "swish": "silu",
    "mish": "mish", "tanh": "tanh", "sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid", "hard_silu": "hard_silu",
    "hard_swish": "hard_silu", "softplus": "softplus", "softsign": "softsign", "softmax": "softmax",
    "exponential": "exponential", "leaky_relu": "leaky_relu",
}  # fmt: skip
ACTIVATION_LAYERS = {"ReLU": "relu", "ELU": "elu", "LeakyReLU": "leaky_relu", "Softmax": "softmax", "PReLU": ""}
POOLS = {"GlobalAveragePooling2D": "avg_pool", "GlobalMaxPooling2D": "max_pool", "Flatten": "flatten"}
DIVIDES, MULTIPLIES = ("TrueDivide", "Divide", "truediv", "divide"), ("Multiply", "multiply", "mul")
SUBTRACTS, ADDS = ("Subtract", "subtract", "sub"), ("Add", "add")
REGRESSIONS = ("mse", "meansquarederror", "mae", "meanabsoluteerror", "huber")


class HeadLayer(NamedTuple):
    """A step of the head; the layer whose arrays are its own, "" if it has none; variables that it was made without."""

    step: Step
    layer: str
    without: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Graph:
    """What a file's graph says.

    Attributes:
      model: "xception" or "inception_v3".
      epsilon: of the backbone's batch normalization.
      image_size: side of the images, None if any.
      normalization: of pixels 0..255, if the graph does it; None if it is left to the caller.
      head: the steps before the logits.
      logits: the layer of the logits; "" if there is none.
      activation: of the logits, "" if there is none.
      layers: names of all layers outside the backbone.
      middle_blocks: of an Xception.
    """

    model: str
    epsilon: float
    image_size: int | None
    normalization: Normalization | None
    head: tuple[HeadLayer, ...]
    logits: str
    activation: str
    layers: frozenset[str]
    middle_blocks: int = len(MIDDLE)


def follow(output: Layer, tensors: Tensors, source: str, *, head: bool = True) -> Graph:
    """Follows a graph from its output to its input.

    Args:
      output: of `layer_graph.read`.
      tensors: the file's arrays by "layer/variable".
      source: the file, for messages.
      head: whether to read what comes after the backbone.

    Raises:
      WeightsFileError: there is no such backbone, or something outside it cannot be followed; the message names it.
    """
    every = list(output.before())
    last = next((layer for layer in every if layer.name in LAST), None)
    if last is None:
        raise WeightsFileError(
            f"{source} has no Xception or Inception V3 as Keras builds it: no layer is called {' or '.join(LAST)}"
        )
    model, inside = LAST[last.name], list(last.before())
    first = next(layer for layer in inside if layer.kind == "Conv2D")
    before = _chain(first.inputs[0], None, source) if first.inputs else []
    outside = {id(layer) for layer in before}
    between = [layer for layer in inside if id(layer) not in outside]
    epsilon = _epsilon(model, between, source)
    normalization, size = _input(before, tensors, source)
    after = _chain(output, last, source) if head else []
    steps, logits, activation = _head(after, source)
    backbone = {layer.name for layer in inside} - {layer.name for layer in before}
    names = frozenset(layer.name for layer in every) - backbone
    blocks = _middle_blocks(model, between)
    return Graph(model, epsilon, size, normalization, steps, logits, activation, names, blocks)


def _chain(layer: Layer, end: Layer | None, source: str) -> list[Layer]:
    """The layers up to `layer`, from the one after `end`, or from the input; each must have one input."""
    chain = []
    while layer is not end:
        chain.append(layer)
        if not layer.inputs:
            break
        if len(layer.inputs) > 1:
            raise WeightsFileError(
                f'{source}: layer "{layer.name}" ({layer.kind}) joins {len(layer.inputs)} layers outside the backbone, '
                f"which cannot be followed{INSTEAD}"
            )
        layer = layer.inputs[0]
    return chain[::-1]


def _middle_blocks(model: str, layers: list[Layer]) -> int:
    """The number of an Xception's middle blocks, each of which ends in a sum as four other blocks do."""
    sums = sum(layer.kind == "Add" for layer in layers)
    return min(max(sums - 4, 0), len(MIDDLE)) if model == "xception" else len(MIDDLE)


def _epsilon(model: str, layers: list[Layer], source: str) -> float:
    """The epsilon of the backbone's batch normalization.

    Raises:
      WeightsFileError: the backbone was changed: it has other layers or activations, or several epsilons.
    """
    found = collections.Counter(layer.kind for layer in layers)
    omitted = len(MIDDLE) - _middle_blocks(model, layers)
    for kind, count in LAYERS[model].items():
        if found[kind] != count - omitted * IN_A_MIDDLE_BLOCK.get(kind, 0):
            raise WeightsFileError(
                f"{source}: its {model} was changed: it has {found[kind]} {kind}, Keras' has {count}"
            )
    for layer in layers:
        if layer.kind == "Activation" and (activation := _activation_of(layer)) != "relu":
            raise WeightsFileError(f'{source}: its {model} was changed: "{layer.name}" is {activation}')
    epsilons = {
        float(layer.config.get("epsilon", BN_EPSILON)) for layer in layers if layer.kind == "BatchNormalization"
    }
    if len(epsilons) > 1:
        raise WeightsFileError(f"{source}: its {model} was changed: it has epsilons of {sorted(epsilons)}")
    return epsilons.pop()


def _input(layers: list[Layer], tensors: Tensors, source: str) -> tuple[Normalization | None, int | None]:
    """The function of pixels, as a normalization; and the image's side."""
    scale, offset = np.ones(3), np.zeros(3)
    scaled, size = False, None
    for layer in layers:
        if layer.kind == "InputLayer":
            size = _side(layer, source)
        elif layer.kind == "Resizing":
            size = _resizing(layer, source)
        elif layer.kind not in IDENTITY:
            a, b = _affine(layer, tensors, source)
            scale, offset, scaled = scale * a, offset * a + b, True
    if not scaled:
        return None, size
    if not np.isfinite([scale, offset]).all() or (scale == 0).any():
        raise WeightsFileError(f"{source}: its graph scales pixels by {scale.tolist()} + {offset.tolist()}")
    std = 1 / (255 * scale)
    return Normalization(_colours(-offset * std), _colours(std)), size


def _colours(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _side(layer: Layer, source: str) -> int | None:
    """The side of the images that an InputLayer takes; None if any."""
    shape = layer.config.get("batch_shape") or layer.config.get("batch_input_shape")
    if not shape:
        return None
    _, height, width, channels = shape
    if channels not in (3, None) or height != width:
        raise WeightsFileError(
            f"{source} takes images of {height}x{width}x{channels}; square ones of 3 colours are supported"
        )
    return height


def _resizing(layer: Layer, source: str) -> int:
    c = layer.config
    if c["height"] != c["width"] or c.get("crop_to_aspect_ratio") or c.get("pad_to_aspect_ratio"):
        raise WeightsFileError(
            f'{source}: "{layer.name}" resizes to {c["height"]}x{c["width"]} in a way that is not supported'
        )
    return int(c["height"])


def _affine(layer: Layer, tensors: Tensors, source: str) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the summand of a layer that scales colours."""
    c, kind = layer.config, layer.kind
    if kind == "Rescaling":
        return _three(c["scale"]), _three(c.get("offset", 0))
    if kind == "Normalization":
        mean, variance = (_three(tensors.get(f"{layer.name}/{name}", c.get(name))) for name in ("mean", "variance"))
        std = np.maximum(np.sqrt(variance), 1e-7)
        return (std, mean) if c.get("invert") else (1 / std, -mean / std)
    operation = str(c.get("function", kind)).rpartition(".")[2] if kind == "TFOpLambda" else kind
    if len(layer.constants) == 1:
        value = _three(layer.constants[0])
        for names, result in (
            (DIVIDES, (1 / value, np.zeros(3))),
            (MULTIPLIES, (value, np.zeros(3))),
            (SUBTRACTS, (np.ones(3), -value)),
            (ADDS, (np.ones(3), value)),
        ):
            if operation in names:
                return result
    raise WeightsFileError(
        f'{source}: "{layer.name}" ({kind}) comes before the backbone and cannot be followed; rescaling, '
        "normalization, resizing and augmentation can. Save the network without it"
    )


def _three(value: Any) -> np.ndarray:
    """A number, or one for each colour, float64 [3]."""
    flat = np.asarray(value, np.float64).ravel()
    if flat.size not in (1, 3):
        raise ValueError(f"{value!r} is not a number, nor one for each colour")
    return np.broadcast_to(flat, 3).copy()


def _activation_of(layer: Layer) -> str:
    """The activation that a layer ends with, by Keras' name; "" if none."""
    activation = layer.config.get("activation")
    if isinstance(activation, Mapping):  # {"class_name": "function", "config": "relu"}, or a layer
        activation = activation.get("config") if isinstance(activation.get("config"), str) else activation["class_name"]
    return "" if activation in (None, "linear") else str(activation).lower()


def _head(layers: list[Layer], source: str) -> tuple[tuple[HeadLayer, ...], str, str]:
    """The steps before the logits, the layer of the logits, and its activation."""
    steps = [step for layer in layers for step in _steps(layer, source)]
    dense = [i for i, found in enumerate(steps) if found.step.kind == "dense"]
    if not dense:
        return _pooled(steps, source), "", ""
    logits, after = steps[dense[-1]], [s.step for s in steps[dense[-1] + 1 :] if s.step.kind != "dropout"]
    if len(after) > 1 or any(step.kind not in ("softmax", "sigmoid") for step in after):
        raise WeightsFileError(
            f'{source}: what follows its last dense layer "{logits.layer}" ({", ".join(map(str, after))}) cannot be '
            f"scores; softmax, sigmoid or nothing can{INSTEAD}"
        )
    activation = after[0].kind if after else ""
    return _pooled(steps[: dense[-1]], source), logits.layer, activation


def _pooled(steps: list[HeadLayer], source: str) -> tuple[HeadLayer, ...]:
    """The steps with the pool first; dropout of maps does nothing at inference."""
    pools = [i for i, found in enumerate(steps) if found.step.kind in ("avg_pool", "max_pool", "flatten")]
    first = pools[0] if pools else 0
    early = [s for s in steps[:first] if s.step.kind != "dropout"]
    if early:
        raise WeightsFileError(
            f'{source}: "{early[0].layer or early[0].step}" comes between the last map and its pool, which is not '
            f"supported{INSTEAD}"
        )
    # What is flattened after it was pooled is flat already.
    late = [s for s in steps[first + 1 :] if s.step.kind != "flatten"]
    if any(s.step.kind in ("avg_pool", "max_pool") for s in late):
        raise WeightsFileError(f"{source}: its head pools twice, which is not supported{INSTEAD}")
    return tuple([*steps[first : first + 1], *late]) if pools else tuple(steps)


def _steps(layer: Layer, source: str) -> Iterator[HeadLayer]:
    """The steps that a layer of the head is."""
    c, kind = layer.config, layer.kind
    if kind == "Flatten":
        yield HeadLayer(Step("flatten"), layer.name)
    elif kind in POOLS:
        yield HeadLayer(Step(POOLS[kind]), "")
    elif kind == "Dense":
        yield HeadLayer(Step("dense", int(c["units"]), bias=bool(c.get("use_bias", True))), layer.name)
        if activation := _activation_of(layer):
            yield _activation(activation, layer, source)
    elif kind == "Activation":
        if activation := _activation_of(layer):
            yield _activation(activation, layer, source)
    elif kind in ACTIVATION_LAYERS:
        yield _activation_layer(layer, source)
    elif kind in ("BatchNormalization", "LayerNormalization"):
        if kind == "LayerNormalization" and c.get("rms_scaling"):
            raise WeightsFileError(
                f'{source}: "{layer.name}" scales by the root mean square, which is not supported{INSTEAD}'
            )
        step = Step("batch_norm" if kind == "BatchNormalization" else "layer_norm", float(c.get("epsilon", 1e-3)))
        given = {"gamma": c.get("scale", True), "beta": c.get("center", True)}
        yield HeadLayer(step, layer.name, frozenset(name for name, there in given.items() if not there))
    elif kind == "Dropout":
        yield HeadLayer(Step("dropout", float(c["rate"])), "")
    elif kind not in IDENTITY:
        raise WeightsFileError(
            f'{source}: "{layer.name}" ({kind}) comes after the backbone and cannot be followed{INSTEAD}'
        )


def _activation(name: str, layer: Layer, source: str) -> HeadLayer:
    if name not in ACTIVATIONS:
        raise WeightsFileError(f'{source}: "{layer.name}" has activation {name}, which is not supported{INSTEAD}')
    # Keras 3's own leaky_relu as a function has slope 0.2.
    return HeadLayer(Step(ACTIVATIONS[name], 0.2 if name == "leaky_relu" else None), "")


def _activation_layer(layer: Layer, source: str) -> HeadLayer:
    c, name = layer.config, ACTIVATION_LAYERS[layer.kind]
    slope = c.get("negative_slope", c.get("alpha"))
    usual: dict[str, Callable[[], bool]] = {
        "relu": lambda: not slope and c.get("max_value") in (None, 6.0) and not c.get("threshold"),
        "elu": lambda: slope in (None, 1.0),
        "softmax": lambda: c.get("axis", -1) == -1,
        "leaky_relu": lambda: True,
    }
    if name not in usual or not usual[name]():
        raise WeightsFileError(f'{source}: "{layer.name}" ({layer.kind}) has settings that are not supported{INSTEAD}')
    if name == "relu" and c.get("max_value") == 6.0:
        return HeadLayer(Step("relu6"), "")
    return HeadLayer(Step(name, float(0.3 if slope is None else slope) if name == "leaky_relu" else None), "")


def compiled_scores(compiled: Any) -> str:
    """What the loss that a network was compiled with says of its outputs: "linear" of a regression; "" if nothing.

    Args:
      compiled: the file's `compile_config`, or None.
    """
    loss = compiled.get("loss") if isinstance(compiled, Mapping) else None
    name = str(loss.get("class_name") if isinstance(loss, Mapping) else loss).lower().replace("_", "")
    return "linear" if name in REGRESSIONS else ""


def scores_of(meaning: str, outputs: int) -> tuple[Scores, str]:
    """What a network's outputs mean, and what of it is assumed; "" if nothing.

    Args:
      meaning: "softmax", "sigmoid" or "linear"; "" if the file does not say.
      outputs: how many there are.
    """
    for known in SCORES:
        if meaning == known:
            return known, ""
    taken: Scores = "sigmoid" if outputs == 1 else "softmax"
    return taken, f"the file does not say what its outputs mean: {taken} of them is taken (--scores says otherwise)"
