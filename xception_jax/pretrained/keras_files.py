"""Trained weights from Keras' files: the backbone by its arrays, what is around it by the file's graph or by shapes."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from xception_jax.errors import WeightsFileError, some
from xception_jax.formats import layer_graph
from xception_jax.models.cards import usual_input
from xception_jax.models.head import Scores, Step, as_text
from xception_jax.models.variables import Weights
from xception_jax.pretrained.identify import Recognized, recognize
from xception_jax.pretrained.layouts.keras import layer_number
from xception_jax.pretrained.layouts.keras_graph import BN_EPSILON, Graph, HeadLayer, compiled_scores, follow, scores_of
from xception_jax.pretrained.pretrained import Pretrained, imagenet_classes

Tensors = Mapping[str, np.ndarray]
RANGE_ASSUMED = "pixels are scaled to -1..1 before the network, as preprocess_input does (--input_range says otherwise)"
NUMBERED_NORMS = {"xception": 4, "inception_v3": 94}  # of the backbone, without names of their own
MOST_UNORDERED = 16  # layers of a head without a graph
# Where each step's arrays are in our head, and its variables in Keras' names, ours, and what replaces a missing one.
DENSE = (("kernel", "params", "kernel", None), ("bias", "params", "bias", 0))
NORM = (
    ("gamma", "params", "scale", 1),
    ("beta", "params", "bias", 0),
    ("moving_mean", "batch_stats", "mean", None),
    ("moving_variance", "batch_stats", "var", None),
)
ARRAYS = {"dense": ("hidden", DENSE), "batch_norm": ("hidden_norms", NORM), "layer_norm": ("layer_norms", NORM[:2])}


def config_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The network's configuration in a Keras file's metadata; None if there is none."""
    if config := metadata.get("config"):
        return config
    try:
        config = json.loads(metadata.get("model_config") or "null")
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, Mapping) else None


def of_graph(tensors: Tensors, config: Mapping[str, Any], source: str, *, head: bool = True) -> Pretrained:
    """The weights of a file that has its network's configuration.

    Args:
      tensors: by "layer/variable".
      config: the network's.
      source: the file, for messages.
      head: whether to read what comes after the backbone.

    Raises:
      WeightsFileError: the graph cannot be followed, or arrays are missing or have wrong shapes.
    """
    tensors = _floats(tensors)
    graph = follow(layer_graph.read(config, source), tensors, source, head=head)
    arrays = {n: x for n, x in tensors.items() if n.rpartition("/")[0] not in graph.layers}
    found = recognize(arrays, source, middle_blocks=graph.middle_blocks)
    if found.model != graph.model or found.num_classes:
        raise WeightsFileError(f"{source} is damaged: its graph is an {graph.model}, its arrays are not")
    meaning = graph.activation or compiled_scores(config.get("compile_config"))
    return _assembled(graph, found, tensors, source, meaning, [])


def of_arrays(tensors: Tensors, source: str) -> Pretrained | None:
    """The weights of a file without a configuration, whose head is more than one dense layer; None if it is not.

    The order of the head's layers follows from their shapes, and among equal ones from Keras' numbers.

    Raises:
      WeightsFileError: no order fits, or several do.
    """
    tensors = _floats(tensors)
    model = "xception" if any("block14_sepconv2" in name for name in tensors) else "inception_v3"
    head = _head_of(tensors, model)
    if len(head) < 2:
        return None
    outside = {h.layer for h in head}
    backbone = recognize({n: x for n, x in tensors.items() if n.rpartition("/")[0] not in outside}, source)
    few = len(head) <= MOST_UNORDERED
    orders = list(itertools.islice(_orders(head, _last_channels(backbone.weights), tensors), 2)) if few else []
    if len(orders) != 1:
        raise WeightsFileError(
            f"{source}: {'several orders' if orders else 'no order'} of its head's {len(head)} layers can be told from "
            f"shapes ({some(sorted(h.layer for h in head))}); save the whole network (model.save), with its "
            "configuration"
        )
    *before, logits = orders[0]
    relu = HeadLayer(Step("relu"), "")
    steps = [s for h in before for s in ((h, relu) if h.step.kind == "dense" else (h,))]
    graph = Graph(model, BN_EPSILON, None, None, tuple(steps), logits.layer, "", frozenset(outside))
    return _assembled(graph, backbone, tensors, source, "", ["its hidden layers are taken to have ReLU"])


def _floats(tensors: Tensors) -> dict[str, np.ndarray]:
    """The arrays without scalars and whole numbers, which are seeds and counters."""
    return {name: x for name, x in tensors.items() if x.ndim and not np.issubdtype(x.dtype, np.integer)}


def _head_of(tensors: Tensors, model: str) -> list[HeadLayer]:
    """The layers of a head in Keras' order of creation: dense ones, and the norms that the backbone does not have."""
    layers = dict.fromkeys(name.rpartition("/")[0] for name in tensors)
    norms = [layer for layer in layers if re.fullmatch(r"(.*/)?batch_normalization(_\d+)?", layer)]
    norms = sorted(norms, key=layer_number)[NUMBERED_NORMS[model] :]
    found = [HeadLayer(Step("batch_norm"), layer) for layer in norms]
    for layer in layers:
        kernel = tensors.get(f"{layer}/kernel")
        if kernel is not None and kernel.ndim == 2:
            found.append(HeadLayer(Step("dense", kernel.shape[1]), layer))
    return sorted(found, key=lambda h: layer_number(h.layer))


def _orders(head: list[HeadLayer], width: int, tensors: Tensors) -> Iterator[list[HeadLayer]]:
    """The orders in which the layers fit onto `width` features, those of a kind in their own order; logits last."""
    if not head:
        yield []
        return
    for kind in ("dense", "batch_norm"):
        first = next((h for h in head if h.step.kind == kind), None)
        if first is None or (kind == "batch_norm" and len(head) == 1):
            continue
        shape = tensors[f"{first.layer}/{'kernel' if kind == 'dense' else 'moving_mean'}"].shape
        if shape[0] == width:
            rest = [h for h in head if h is not first]
            yield from ([first, *order] for order in _orders(rest, shape[-1], tensors))


def _assembled(
    graph: Graph, backbone: Recognized, tensors: Tensors, source: str, meaning: str, assumed: list[str]
) -> Pretrained:
    """The weights of a backbone with what a graph says of the rest; `meaning` of its outputs is "" if unknown."""
    weights, options, outputs = backbone.weights, dict(backbone.options), 0
    scores: Scores = "softmax"
    if not math.isclose(graph.epsilon, BN_EPSILON, rel_tol=1e-3):
        options["bn_epsilon"] = graph.epsilon
    if graph.logits:
        weights, steps, outputs = _with_head(backbone.weights, graph, tensors, source)
        options |= _options(steps)
        scores, note = scores_of(meaning, outputs)
        assumed = assumed + ([note] if note else [])
        if outputs == 1 and meaning == "sigmoid":  # not where it is assumed: the user may know that it is a number
            weights, outputs, scores = _as_two_classes(weights), 2, "softmax"
    spec = usual_input("keras", graph.model)
    if graph.image_size is not None:
        spec = dataclasses.replace(spec, image_size=graph.image_size)
    if graph.normalization is not None:
        spec = dataclasses.replace(spec, normalization=graph.normalization)
    else:
        assumed = [*assumed, RANGE_ASSUMED]
    names = imagenet_classes() if outputs == 1000 else ()
    return Pretrained(
        source, graph.model, options, outputs, weights, spec, names, scores=scores, assumed=tuple(assumed)
    )


def _with_head(backbone: Weights, graph: Graph, tensors: Tensors, source: str) -> tuple[Weights, list[Step], int]:
    """The backbone's weights with those of the head; its steps; and the number of its outputs."""
    trees: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    width, steps = _last_channels(backbone), []
    for found in graph.head:
        step, width = _sized(found, width, graph, tensors, source)
        steps.append(step)
        if step.kind in ARRAYS:
            place, variables = ARRAYS[step.kind]
            number = sum(s.kind == step.kind for s in steps) - 1
            arrays = _arrays(found, variables, width, tensors, source)
            for collection, values in arrays.items():
                trees[collection].setdefault(place, {})[number] = values
    outputs = _kernel(graph.logits, tensors, source).shape[1]
    logits = HeadLayer(Step("dense", outputs), graph.logits)
    trees["params"]["logits"] = _arrays(logits, DENSE, outputs, tensors, source)["params"]
    weights = Weights(
        {**backbone.params, "head": trees["params"]},
        {**backbone.batch_stats, **({"head": trees["batch_stats"]} if trees["batch_stats"] else {})},
    )
    return weights, steps, outputs


def _last_channels(backbone: Weights) -> int:
    """Channels of the last map."""
    if "block14" in backbone.params:
        return backbone.params["block14"]["sepconv2_bn"]["bias"].shape[0]
    return 2048


def _sized(found: HeadLayer, width: int, graph: Graph, tensors: Tensors, source: str) -> tuple[Step, int]:
    """A step with what follows from its arrays' shapes, and the width of its result."""
    step = found.step
    if step.kind == "flatten":
        after = next((h.layer for h in graph.head if h.step.kind == "dense"), graph.logits)
        flat = _kernel(after, tensors, source).shape[0]
        side = math.isqrt(flat // width)
        if side * side * width != flat:
            raise WeightsFileError(f'{source}: "{found.layer}" makes {flat} numbers of maps of {width} channels')
        return step._replace(size=(side, side)), flat
    if step.kind == "dense":
        fan_in, units = _kernel(found.layer, tensors, source).shape
        if fan_in != width:
            raise WeightsFileError(f'{source}: "{found.layer}" takes {fan_in} numbers where there are {width}')
        return step, units
    return step, width


def _kernel(layer: str, tensors: Tensors, source: str) -> np.ndarray:
    kernel = tensors.get(f"{layer}/kernel")
    if kernel is None or kernel.ndim != 2:
        raise WeightsFileError(f'{source}: layer "{layer}" has no kernel')
    return kernel


def _arrays(found: HeadLayer, variables: Any, width: int, tensors: Tensors, source: str) -> dict[str, dict[str, Any]]:
    """A layer's arrays by collection and our name, float32; what it was made without is what changes nothing."""
    layer, arrays = found.layer, dict[str, dict[str, Any]]()
    own = _own(layer, [theirs for theirs, *_ in variables if theirs not in found.without], tensors)
    for theirs, collection, ours, otherwise in variables:
        x = own.get(theirs)
        if x is None and otherwise is None:
            raise WeightsFileError(f'{source}: layer "{layer}" has no {theirs}')
        value = np.full(width, otherwise, np.float32) if x is None else np.asarray(x, np.float32)
        if value.shape[-1] != width or not np.isfinite(value).all():
            raise WeightsFileError(f'{source}: {theirs} of "{layer}" has {value.shape[-1]} units, or is not finite')
        arrays.setdefault(collection, {})[ours] = value
    return arrays


def _own(layer: str, names: list[str], tensors: Tensors) -> dict[str, np.ndarray]:
    """A layer's arrays by variable; in order where the file has numbers, or names that only their count suggested."""
    arrays = {name.rpartition("/")[2]: x for name, x in tensors.items() if name.rpartition("/")[0] == layer}
    if arrays.keys() != set(names) and len(arrays) == len(names):
        return dict(zip(names, arrays.values(), strict=True))
    return arrays


def _options(steps: list[Step]) -> dict[str, Any]:
    """The network's options for a head: `dropout` for that before the logits, and `head` for more than a mean."""
    steps = steps[1:] if steps and steps[0].kind == "avg_pool" else steps
    if [step.kind for step in steps] == ["dropout"]:
        return {"dropout": steps[0].number}
    return {"head": as_text(steps)} if steps else {}


def _as_two_classes(weights: Weights) -> Weights:
    """One sigmoid unit as the softmax of two classes, of which the second is what it is the probability of."""
    logits = {name: np.stack([-x[..., 0], x[..., 0]], -1) / 2 for name, x in weights.params["head"]["logits"].items()}
    return Weights({**weights.params, "head": {**weights.params["head"], "logits": logits}}, weights.batch_stats)
