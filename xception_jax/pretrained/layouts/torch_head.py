"""The head in a PyTorch state dict: its layers, in order, and what is between them.

A state dict has arrays alone: neither activations nor epsilons. The numbers of an `nn.Sequential` show where there is
something without arrays.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from xception_jax.models.head import Step, as_text
from xception_jax.pretrained.layouts.table import Entry
from xception_jax.pretrained.layouts.timm import OI

MOST_UNORDERED = 5  # layers that are not numbered
MOST_BETWEEN = 2  # layers without arrays: an activation and dropout
EPSILON = 1e-5  # of PyTorch's normalizations
RELU = Step("relu")
HIDDEN = "hidden/"  # before names in the file, of which one may be that of the logits in another

Kind = Literal["dense", "batch_norm", "layer_norm"]


@dataclasses.dataclass(frozen=True)
class HeadLayer:
    """A layer of a head, of those that have arrays: activations and dropout leave none in a file.

    Attributes:
      kind: as of a `Step`.
      name: the layer's, so that its arrays are called `name.weight` and so on.
      width: of its output.
    """

    kind: Kind
    name: str
    width: int

    def __str__(self) -> str:
        return f"{self.name} ({self.kind.replace('_', ' ')}, {self.width})"


def head_of(arrays: Mapping[str, np.ndarray], features: int) -> list[HeadLayer] | None:
    """The layers of the head that `arrays` are all of, in order.

    A numbered sequence is in the order of its numbers. Otherwise there has to be a single order in which each layer
    takes what the one before gives.

    Args:
      arrays: any names; linear kernels are [D, C].
      features: what the first layer takes.

    Returns:
      The layers, of which the last is dense; None if the arrays are not such a chain, or of several.
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layer, _, variable = name.rpartition(".")
        layers.setdefault(layer, []).append(variable)
    steps = [_head_layer(layer, set(variables), arrays) for layer, variables in layers.items()]
    known = sorted((step for step in steps if step is not None), key=lambda step: _in_order(step.name))
    if not known or len(known) < len(steps):
        return None
    one_sequence = len({re.sub(r"\d+$", "", step.name) for step in known}) == 1
    if len(known) > 1 and one_sequence and re.search(r"\d$", known[0].name):
        orders = [known]
    else:
        orders = [list(order) for order in itertools.permutations(known)] if len(known) <= MOST_UNORDERED else []
    fitting = [order for order in orders if _is_chain(order, arrays, features)]
    return fitting[0] if len(fitting) == 1 else None


def _head_layer(layer: str, variables: set[str], arrays: Mapping[str, np.ndarray]) -> HeadLayer | None:
    """The layer with these arrays; None if a head has none of that kind."""
    of = {variable: arrays[f"{layer}.{variable}" if layer else variable] for variable in variables}
    if "weight" not in of or any(x.shape != of["weight"].shape[:1] for name, x in of.items() if name != "weight"):
        return None
    kinds: dict[tuple[int, frozenset[str]], Kind] = {
        (2, frozenset({"weight", "bias"})): "dense",
        (2, frozenset({"weight"})): "dense",
        (1, frozenset({"weight", "bias", "running_mean", "running_var"})): "batch_norm",
        (1, frozenset({"weight", "bias"})): "layer_norm",
    }
    kind = kinds.get((of["weight"].ndim, frozenset(variables)))
    return HeadLayer(kind, layer, of["weight"].shape[0]) if kind else None


def _is_chain(steps: Sequence[HeadLayer], arrays: Mapping[str, np.ndarray], features: int) -> bool:
    for step in steps:
        takes = arrays[f"{step.name}.weight" if step.name else "weight"].shape[-1]
        if takes != features:
            return False
        features = step.width
    return steps[-1].kind == "dense"


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, numbers in them by their size."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@dataclasses.dataclass(frozen=True)
class Hidden:
    """What is before the logits.

    Attributes:
      steps: of the head, as of the option `head`.
      assumed: what of them the file does not say, for people.
      left_out: that the head is, because it is not the one expected; for people.
      refusal: why the steps cannot be told; "" if they can.
    """

    steps: Sequence[Step] = ()
    assumed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    refusal: str = ""


def before_logits(layers: Sequence[HeadLayer], arrays: Mapping[str, np.ndarray], given: Sequence[Step]) -> Hidden:
    """What is before the logits of a head of several layers.

    What has no arrays in an `nn.Sequential`, after a dense layer or its normalization, is taken for a ReLU, or for one
    and dropout.

    Args:
      layers: as `head_of` returns them.
      arrays: as for `head_of`.
      given: what the user says of it; (): nothing.
    """
    if len(layers) < 2:
        return Hidden()
    chain = ", ".join(map(str, layers))
    if given:
        steps = _as_given(layers, given, arrays)
        return Hidden(steps) if steps else Hidden(left_out=(f'left out the head, {chain}: not "{as_text(given)}"',))
    own = [_as_step(layer, arrays) for layer in layers[:-1]]
    places = _relus(layers)
    if places is None:
        example = as_text([s for step in own for s in ((step, RELU) if step.kind == "dense" else (step,))])
        return Hidden(
            refusal=f"it does not say what is between the layers of its head, {chain}; if it is ReLU after each dense "
            f'layer, --head="{example}" (config.model.head in training)'
        )
    steps = [s for i, step in enumerate(own) for s in ((step, RELU) if i in places else (step,))]
    relus = [f"ReLU between {layers[i].name} and {layers[i + 1].name}" for i in places]
    norms = [f"epsilon {EPSILON:g} in {layer.name}" for layer in layers if layer.kind != "dense"]
    return Hidden(steps, (f"in the head {', '.join(relus + norms)}, no dropout (--head says otherwise)",))


def _relus(layers: Sequence[HeadLayer]) -> list[int] | None:
    """The layers that a ReLU follows; None if it cannot be told: no numbers, or no or several places for one."""
    found = [re.fullmatch(r"(|.*\.)(\d{1,9})", layer.name) for layer in layers]
    if len({match and match[1] for match in found}) > 1 or found[0] is None:
        return None
    numbers = [int(match[2]) for match in found if match]
    gaps = [after - before - 1 for before, after in itertools.pairwise(numbers)]
    places = [i for i, gap in enumerate(gaps) if gap]
    dense = itertools.pairwise(i for i, layer in enumerate(layers) if layer.kind == "dense")
    # One place between each two dense layers, and none before the first.
    one_each = [[i for i in places if first <= i < second] for first, second in dense]
    if [[i] for i in places] != one_each or max(gaps) > MOST_BETWEEN:
        return None
    return places


def _as_given(
    layers: Sequence[HeadLayer], given: Sequence[Step], arrays: Mapping[str, np.ndarray]
) -> list[Step] | None:
    """The given steps, with the biases that the file has; None if they are not of these layers."""
    own = iter([(layer, _as_step(layer, arrays)) for layer in layers[:-1]])
    steps = []
    for step in given:
        if step.kind in ("dense", "batch_norm", "layer_norm"):
            layer, known = next(own, (None, step))
            if layer is None or layer.kind != step.kind or (step.kind == "dense" and layer.width != step.number):
                return None
            step = step._replace(bias=known.bias, number=known.number if step.number is None else step.number)
        steps.append(step)
    return None if next(own, None) else steps


def _as_step(layer: HeadLayer, arrays: Mapping[str, np.ndarray]) -> Step:
    """A layer as a step of our head, as PyTorch makes it by default."""
    if layer.kind == "dense":
        return Step("dense", layer.width, bias="bias" in variables(layer, arrays))
    return Step(layer.kind, EPSILON)


def variables(layer: HeadLayer, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The names of a layer's arrays, by their last parts."""
    return {name.rpartition(".")[2]: name for name in arrays if name.rpartition(".")[0] == layer.name}


def entries(layers: Sequence[HeadLayer], arrays: Mapping[str, np.ndarray]) -> list[Entry]:
    """Where the arrays of the layers before the logits are in our head, by their names there after `HIDDEN`."""
    found = []
    for kind, place in (("dense", "hidden"), ("batch_norm", "hidden_norms"), ("layer_norm", "layer_norms")):
        weight = "kernel" if kind == "dense" else "scale"
        for i, layer in enumerate(layer for layer in layers[:-1] if layer.kind == kind):
            for variable, name in variables(layer, arrays).items():
                collection: Literal["params", "batch_stats"] = (
                    "params" if variable in ("weight", "bias") else "batch_stats"
                )
                ours = weight if variable == "weight" else variable.removeprefix("running_")
                axes = OI if ours == "kernel" else None
                found.append(Entry(collection, ("head", place, i, ours), HIDDEN + name, axes))
    return found
