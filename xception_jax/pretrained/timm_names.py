"""The names of timm's state dicts, and of torchvision's Inception V3, which are the same.

| here | timm | modules here -> there |
|---|---|---|
| xception | legacy_xception | block1 -> conv1, conv2; block2..block13 -> block1..block12; block14 -> conv3, conv4 |

PyTorch keeps convolutions as [D, C, h, w] (ours: [h, w, C, D]) and linear layers as [K, C] (ours: [C, K]).
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from xception_jax.errors import UserError, suggest
from xception_jax.models import xception
from xception_jax.pretrained.table import Entry, Path, Table

OIHW, OI = (2, 3, 1, 0), (1, 0)

Kind = Literal["conv", "norm", "linear"]
Layer = tuple[Kind, Path, str]  # the layer's path here, its name there


def timm_table(model: str, *, head: bool = True) -> Table:
    """The table of a network.

    Args:
      model: our name for it, as `create_model` takes it.
      head: with the logits layer.

    Raises:
      UserError: timm has no such network.
    """
    if model not in LAYERS:
        raise UserError(f'timm has no twin of model "{model}"; {suggest(model, LAYERS)}')
    entries: list[Entry] = []
    constants = {}
    for kind, path, name in LAYERS[model]():
        if path[0] == "head" and not head:
            continue
        if kind == "norm":
            entries += [
                Entry("params", (*path, "scale"), f"{name}.weight"),
                Entry("params", (*path, "bias"), f"{name}.bias"),
                Entry("batch_stats", (*path, "mean"), f"{name}.running_mean"),
                Entry("batch_stats", (*path, "var"), f"{name}.running_var"),
            ]
            constants[f"{name}.num_batches_tracked"] = np.array(0, np.int64)
        else:
            entries.append(Entry("params", (*path, "kernel"), f"{name}.weight", OIHW if kind == "conv" else OI))
        if kind == "linear":
            entries.append(Entry("params", (*path, "bias"), f"{name}.bias"))
    return Table(tuple(entries), constants)


def _xception() -> Iterator[Layer]:
    for i in (1, 2):
        yield "conv", ("block1", f"conv{i}"), f"conv{i}"
        yield "norm", ("block1", f"conv{i}_bn"), f"bn{i}"
    for name, widths, stride in xception.ENTRY + xception.MIDDLE + xception.EXIT:
        theirs = f"block{int(name.removeprefix('block')) - 1}"
        first = 0 if name == "block2" else 1  # all others begin with a ReLU
        for i in range(len(widths)):
            yield from _separable((name, "sepconvs", i), f"{theirs}.rep.{first + 3 * i}")
            yield "norm", (name, "norms", i), f"{theirs}.rep.{first + 3 * i + 1}"
        if stride != 1:
            yield "conv", (name, "shortcut"), f"{theirs}.skip"
            yield "norm", (name, "shortcut_bn"), f"{theirs}.skipbn"
    for i in (1, 2):
        yield from _separable(("block14", f"sepconv{i}"), f"conv{i + 2}")
        yield "norm", ("block14", f"sepconv{i}_bn"), f"bn{i + 2}"
    yield "linear", ("head", "logits"), "fc"


def _separable(path: Path, name: str) -> Iterator[Layer]:
    yield "conv", (*path, "depthwise"), f"{name}.conv1"
    yield "conv", (*path, "pointwise"), f"{name}.pointwise"


LAYERS: dict[str, Callable[[], Iterator[Layer]]] = {"xception": _xception}
