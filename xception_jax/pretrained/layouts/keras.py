"""The names of Keras' arrays, "layer/variable", in every format that Keras and TensorFlow write.

Xception's layers are named like ours, except for its residual convolutions; these and all layers of Inception V3 are
numbered by Keras in order of creation: conv2d, conv2d_1, ... and batch_normalization, ... The numbers continue from
model to model in a session, so that only their order matters. Keras stores depthwise kernels as [h, w, C, 1] (ours:
[h, w, 1, C]), everything else as we do.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xception_jax.errors import UserError, suggest
from xception_jax.models import xception
from xception_jax.pretrained.layouts.table import Entry, Path, Table
from xception_jax.pretrained.layouts.timm import LAYERS as TIMM_LAYERS

HW1C = (0, 1, 3, 2)
NUMBERED = ("conv2d", "batch_normalization")
HEAD = "predictions"
MODELS = ("xception", "inception_v3")
NORM = (
    ("params", "scale", "gamma"),
    ("params", "bias", "beta"),
    ("batch_stats", "mean", "moving_mean"),
    ("batch_stats", "var", "moving_variance"),
)

# Keras' files have the layers in the order of `model.layers`: by depth, counted from the output. The order within a
# block of Inception V3, by the number of the convolution (c) or batch normalization (b) in the block.
INCEPTION_ORDER = {
    7: "c3 b3 c1 c4 b1 b4 c0 c2 c5 c6 b0 b2 b5 b6",
    4: "c1 b1 c2 b2 c0 c3 b0 b3",
    10: "c4 b4 c5 b5 c1 c6 b1 b6 c2 c7 b2 b7 c0 c3 c8 c9 b0 b3 b8 b9",
    6: "c2 b2 c3 b3 c0 c4 b0 b4 c1 c5 b1 b5",
    9: "c4 b4 c1 c5 b1 b5 c2 c3 c6 c7 c0 b2 b3 b6 b7 c8 b0 b8",
}
INCEPTION_BLOCKS = (7, 7, 7, 4, 10, 10, 10, 10, 6, 9, 9)  # convolutions in each


def canonical(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the arrays as in a fresh session: layers are numbered from 0, and the head's are found by size.

    Args:
      tensors: by "layer/variable" or "layer.variable", with or without ":0" at the end.
    """
    renamed = {re.sub(r"[./]([a-z_]+)(:0)?$", r"/\1", name): x for name, x in _from_keras1(tensors).items()}
    layers = dict.fromkeys(name.rpartition("/")[0] for name in renamed)
    new: dict[str, str] = {}
    for kind in NUMBERED:
        found = [layer for layer in layers if re.fullmatch(rf"{kind}(_\d+)?", layer)]
        new |= {old: numbered(kind, i) for i, old in enumerate(sorted(found, key=layer_number))}
    dense = [layer for layer in layers if _ndim(renamed, layer) == 2]
    if len(dense) == 1:
        new[dense[0]] = HEAD
    return {
        f"{new.get(layer, layer)}/{variable}": x
        for name, x in renamed.items()
        for layer, _, variable in [name.rpartition("/")]
    }


# Keras 1's names of layers and arrays, as later versions'. Its running_std holds the variance.
KERAS1 = re.compile(r"(.*/)?(convolution2d|separableconvolution2d|batchnormalization|dense)_(\d+)_([A-Za-z_]+?)(:0)?")
KERAS1_VARIABLES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
KERAS1_KINDS = {
    "convolution2d": "conv2d",
    "separableconvolution2d": "separable_conv2d",
    "batchnormalization": "batch_normalization",
    "dense": "dense",
}


def _from_keras1(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Arrays with Keras 1's names, by today's: Xception's layers, numbered in the order in which they are made."""
    found = {name: match for name in tensors if (match := KERAS1.fullmatch(name))}
    if not any(match[4] in KERAS1_VARIABLES or match[2] == "separableconvolution2d" for match in found.values()):
        return tensors
    made: dict[str, list[str]] = {kind: [] for kind in KERAS1_KINDS.values()}
    for layer, kind in _as_made():
        made[kind].append(layer)
    numbers = {kind: sorted({int(m[3]) for m in found.values() if m[2] == kind}) for kind in KERAS1_KINDS}

    def renamed(name: str) -> str:
        match = found.get(name)
        if match is None:
            return name
        layers, place = made[KERAS1_KINDS[match[2]]], numbers[match[2]].index(int(match[3]))
        # Layers of the head come after the network's, and keep their names.
        layer = layers[place] if place < len(layers) else f"{match[2]}_{match[3]}"
        return f"{layer}/{KERAS1_VARIABLES.get(match[4], match[4])}"

    return {renamed(name): x for name, x in tensors.items()}


def _as_made() -> Iterator[tuple[str, str]]:
    """Xception's layers and their kinds as Keras 1 made them: a block's residual convolution before the others."""
    layers = list(dict.fromkeys(e.name.rpartition("/")[0] for e in keras_table("xception", head=False).entries))
    block: list[str] = []
    name = ""
    for layer in [*layers, "end_"]:
        own = name if _is_numbered(layer) else layer.split("_")[0]
        if own != name:
            for made in sorted(block, key=lambda each: not _is_numbered(each)):  # stable
                yield made, _kind(made)
            block, name = [], own
        block.append(layer)


def _is_numbered(layer: str) -> bool:
    """Whether a layer has no name of its own, as those of residual convolutions."""
    return re.fullmatch(rf"({'|'.join(NUMBERED)})(_\d+)?", layer) is not None


def _kind(layer: str) -> str:
    if layer.endswith("_bn") or layer.startswith("batch_normalization"):
        return "batch_normalization"
    return "separable_conv2d" if "_sepconv" in layer else "conv2d"


def numbered(kind: str, i: int) -> str:
    """The automatic Keras name of the `i`-th layer of its kind in a session."""
    return f"{kind}_{i}" if i else kind


def layer_number(layer: str) -> int:
    """The number in an automatic name: 1 of dense_1, 0 of dense."""
    found = re.search(r"_(\d+)$", layer)
    return int(found[1]) if found else 0


def _ndim(tensors: Mapping[str, np.ndarray], layer: str) -> int:
    kernel = tensors.get(f"{layer}/kernel")
    return 0 if kernel is None else kernel.ndim


def keras_table(model: str, *, head: bool = True, middle_blocks: int = len(xception.MIDDLE)) -> Table:
    """The table of a network, in the order of Keras' layers.

    Args:
      model: "xception", or "inception_v3" of flavour "keras".
      head: whether to include the logits layer.
      middle_blocks: of Xception's middle flow; keras.applications' has 8.

    Raises:
      UserError: Keras has no such network.
    """
    if model not in MODELS:
        raise UserError(
            f'Keras has no equivalent of model "{model}"; {suggest(model, MODELS)} (--to=native takes any network)'
        )
    entries = [*(_xception(middle_blocks) if model == "xception" else _inception_v3())]
    if head:
        entries += _kernel(("head", "logits"), HEAD)
        entries.append(Entry("params", ("head", "logits", "bias"), f"{HEAD}/bias"))
    return Table(tuple(entries))


def _kernel(path: Path, layer: str) -> Iterator[Entry]:
    yield Entry("params", (*path, "kernel"), f"{layer}/kernel")


def norm_entries(path: Path, layer: str, variables: Sequence[tuple] = NORM) -> Iterator[Entry]:
    for collection, ours, theirs in variables:
        yield Entry(collection, (*path, ours), f"{layer}/{theirs}")


def _separable(path: Path, layer: str) -> Iterator[Entry]:
    yield Entry("params", (*path, "depthwise", "kernel"), f"{layer}/depthwise_kernel", HW1C)
    yield Entry("params", (*path, "pointwise", "kernel"), f"{layer}/pointwise_kernel")


def _xception(middle_blocks: int) -> Iterator[Entry]:
    for i in (1, 2):
        yield from _kernel(("block1", f"conv{i}"), f"block1_conv{i}")
        yield from norm_entries(("block1", f"conv{i}_bn"), f"block1_conv{i}_bn")
    shortcuts = 0
    for name, widths, stride in xception.ENTRY + xception.MIDDLE[:middle_blocks] + xception.EXIT:
        for i in range(len(widths)):
            yield from _separable((name, "sepconvs", i), f"{name}_sepconv{i + 1}")
            yield from norm_entries((name, "norms", i), f"{name}_sepconv{i + 1}_bn")
        if stride != 1:
            yield from _kernel((name, "shortcut"), numbered("conv2d", shortcuts))
            yield from norm_entries((name, "shortcut_bn"), numbered("batch_normalization", shortcuts))
            shortcuts += 1
    for i in (1, 2):
        yield from _separable(("block14", f"sepconv{i}"), f"block14_sepconv{i}")
        yield from norm_entries(("block14", f"sepconv{i}_bn"), f"block14_sepconv{i}_bn")


def _inception_v3() -> Iterator[Entry]:
    """Keras creates its layers in the order of timm's table; its batch normalization has no gamma."""
    made = dict.fromkeys(NUMBERED, 0)
    for kind, path, _ in TIMM_LAYERS["inception_v3"]():
        if path[0] == "aux" or kind == "linear":
            continue
        layer = NUMBERED[0] if kind == "conv" else NUMBERED[1]
        name = numbered(layer, made[layer])
        yield from _kernel(path, name) if kind == "conv" else norm_entries(path, name, NORM[1:])
        made[layer] += 1


def keras_layers(model: str, *, head: bool = True) -> list[str]:
    """The layers that have arrays, in the order in which Keras loads them from a file."""
    if model != "inception_v3":
        return list(dict.fromkeys(entry.name.rpartition("/")[0] for entry in keras_table(model, head=head).entries))
    order = [numbered(kind, i) for i in range(5) for kind in NUMBERED]
    first = 5
    for size in INCEPTION_BLOCKS:
        for item in INCEPTION_ORDER[size].split():
            order.append(numbered(NUMBERED[0] if item[0] == "c" else NUMBERED[1], first + int(item[1:])))
        first += size
    return [*order, HEAD] if head else order
