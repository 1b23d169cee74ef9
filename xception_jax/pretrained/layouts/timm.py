"""The names in timm's state dicts, and in torchvision's Inception V3, which are the same.

| here | timm | modules here -> there |
|---|---|---|
| xception | legacy_xception | block1 -> conv1, conv2; block2 .. block13 -> block1 .. block12; block14 -> conv3, conv4 |
| xception41 and the like | the same | block1 -> stem; block2 .. -> blocks.0 .. |
| inception_v3 | the same; flavour "torchvision" | as at the head of `models/inception_v3.py` |

PyTorch stores convolutions as [D, C, h, w] (ours: [h, w, C, D]) and linear layers as [K, C] (ours: [C, K]).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from xception_jax.errors import UserError, suggest
from xception_jax.models import xception
from xception_jax.models.aligned_xception import AlignedXception
from xception_jax.models.registry import ALIGNED
from xception_jax.pretrained.layouts.table import Entry, Path, Table

OIHW, OI = (2, 3, 1, 0), (1, 0)

Kind = Literal["conv", "norm", "linear"]
Layer = tuple[Kind, Path, str]  # the layer's path here, its name there


def timm_table(model: str, *, head: bool = True, aux_head: bool = False) -> Table:
    """The table of a network.

    Args:
      model: our name, as for `create_model`.
      head: whether to include the logits layer.
      aux_head: inception_v3: whether to include the auxiliary head, as in torchvision's files.

    Raises:
      UserError: timm has no such network.
    """
    if model not in LAYERS:
        raise UserError(
            f'timm has no equivalent of model "{model}"; {suggest(model, LAYERS)} (--to=native takes any network)'
        )
    entries: list[Entry] = []
    constants = {}
    for kind, path, name in LAYERS[model]():
        if (path[-1] == "logits" and not head) or (path[0] == "aux" and not aux_head):
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


def _aligned(kind: type[AlignedXception]) -> Iterator[Layer]:
    bare = kind.preactivation
    yield "conv", ("block1", "conv1"), "stem.0.conv"
    yield "norm", ("block1", "conv1_bn"), "stem.0.bn"
    yield "conv", ("block1", "conv2"), "stem.1" if bare else "stem.1.conv"
    if not bare:
        yield "norm", ("block1", "conv2_bn"), "stem.1.bn"
    channels = 64
    for i, (widths, stride) in enumerate(kind.blocks):
        ours, theirs = f"block{i + 2}", f"blocks.{i}"
        for j in range(3):
            sepconv, name = (ours, "sepconvs", j), f"{theirs}.stack.conv{j + 1}"
            if bare:
                yield "norm", (ours, "norms", j), f"{name}.norm" if j else f"{theirs}.norm"
            for part, short in (("depthwise", "dw"), ("pointwise", "pw")):
                yield "conv", (*sepconv, part), f"{name}.conv_{short}"
                if not bare:
                    yield "norm", (*sepconv, f"{part}_bn"), f"{name}.bn_{short}"
        if i < len(kind.blocks) - 1 and (stride != 1 or widths[-1] != channels):
            yield "conv", (ours, "shortcut"), f"{theirs}.shortcut" if bare else f"{theirs}.shortcut.conv"
            if not bare:
                yield "norm", (ours, "shortcut_bn"), f"{theirs}.shortcut.bn"
        channels = widths[-1]
    yield "linear", ("head", "logits"), "head.fc"


# Branch here: units there, without the prefix "branch".
INCEPTION_A = {
    "branch1x1": "1x1",
    "branch5x5": "5x5_1 5x5_2",
    "branch3x3dbl": "3x3dbl_1 3x3dbl_2 3x3dbl_3",
    "branch_pool": "_pool",
}
INCEPTION_B = {"branch3x3": "3x3", "branch3x3dbl": "3x3dbl_1 3x3dbl_2 3x3dbl_3"}
INCEPTION_C = {
    "branch1x1": "1x1",
    "branch7x7": "7x7_1 7x7_2 7x7_3",
    "branch7x7dbl": "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5",
    "branch_pool": "_pool",
}
INCEPTION_D = {"branch3x3": "3x3_1 3x3_2", "branch7x7x3": "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"}
INCEPTION_E = {
    "branch1x1": "1x1",
    "branch3x3": "3x3_1",
    "branch3x3_a": "3x3_2a",
    "branch3x3_b": "3x3_2b",
    "branch3x3dbl": "3x3dbl_1 3x3dbl_2",
    "branch3x3dbl_a": "3x3dbl_3a",
    "branch3x3dbl_b": "3x3dbl_3b",
    "branch_pool": "_pool",
}
INCEPTION_BLOCKS = {
    "5b": INCEPTION_A, "5c": INCEPTION_A, "5d": INCEPTION_A, "6a": INCEPTION_B,
    "6b": INCEPTION_C, "6c": INCEPTION_C, "6d": INCEPTION_C, "6e": INCEPTION_C,
    "7a": INCEPTION_D, "7b": INCEPTION_E, "7c": INCEPTION_E,
}  # fmt: skip


def _inception_v3() -> Iterator[Layer]:
    for i, name in enumerate(("1a_3x3", "2a_3x3", "2b_3x3")):
        yield from _unit(("stem", "convs1", "units", i), f"Conv2d_{name}")
    for i, name in enumerate(("3b_1x1", "4a_3x3")):
        yield from _unit(("stem", "convs2", "units", i), f"Conv2d_{name}")
    for number, (block, branches) in enumerate(INCEPTION_BLOCKS.items()):
        for branch, units in branches.items():
            for i, unit in enumerate(units.split()):
                yield from _unit((f"mixed{number}", branch, "units", i), f"Mixed_{block}.branch{unit}")
    for i in (0, 1):
        yield from _unit(("aux", "convs", "units", i), f"AuxLogits.conv{i}")
    yield "linear", ("aux", "head", "logits"), "AuxLogits.fc"
    yield "linear", ("head", "logits"), "fc"


def _unit(path: Path, name: str) -> Iterator[Layer]:
    yield "conv", (*path, "conv"), f"{name}.conv"
    yield "norm", (*path, "bn"), f"{name}.bn"


LAYERS: dict[str, Callable[[], Iterator[Layer]]] = {"xception": _xception, "inception_v3": _inception_v3}
LAYERS |= {name: functools.partial(_aligned, kind) for name, kind in ALIGNED.items()}
