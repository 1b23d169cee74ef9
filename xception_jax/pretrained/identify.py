"""Recognises the network that a file's arrays belong to, by their names and shapes, not by the file name."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from xception_jax import models
from xception_jax.errors import WeightsFileError
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.pretrained.layouts.keras import MODELS as KERAS_MODELS
from xception_jax.pretrained.layouts.keras import canonical as canonical_keras
from xception_jax.pretrained.layouts.keras import keras_table
from xception_jax.pretrained.layouts.table import Entry, Table, to_ours
from xception_jax.pretrained.layouts.timm import LAYERS as TIMM_MODELS
from xception_jax.pretrained.layouts.timm import canonical as canonical_timm
from xception_jax.pretrained.layouts.timm import timm_table

Tensors = Mapping[str, np.ndarray]

# Full names of the networks, as the short names are ambiguous.
FAMILIES = {
    "xception": "Chollet's Xception",
    "inception_v3": "Inception V3",
    "xception41": "DeepLab's aligned Xception-41",
    "xception65": "DeepLab's aligned Xception-65",
    "xception71": "DeepLab's aligned Xception-71",
    "xception41p": "timm's pre-activated Xception-41",
    "xception65p": "timm's pre-activated Xception-65",
}
# Options with which our network computes the same as the framework's.
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("timm", "xception"): {"bn_epsilon": 1e-5, "pool_padding": "symmetric"},
    ("timm", "inception_v3"): {"flavour": "torchvision"},
    ("keras", "inception_v3"): {"flavour": "keras"},
}
MOST_NAMES = 5


@dataclasses.dataclass(frozen=True)
class Recognized:
    """The network recognised from a file's arrays.

    Attributes:
      framework: the naming convention, "keras" or "timm" (also for torchvision's Inception V3).
      model, options, num_classes: the network, as for `create_model`; 0 classes if there is no logits layer.
      weights: the arrays in our layout, float32.
    """

    framework: str
    model: str
    options: dict[str, Any]
    num_classes: int
    weights: Weights


def recognize(tensors: Tensors, source: str) -> Recognized:
    """Recognises the network that a file's arrays belong to.

    Args:
      tensors: by their names in the file.
      source: the file, for messages.

    Raises:
      WeightsFileError: the network is unknown, or arrays are missing, unexpected, not finite or have wrong shapes.
    """
    candidates = [(len(_missing(*c)) + len(_unexpected(*c)), *c) for c in _candidates(tensors)]
    distance, framework, model, table, arrays = min(candidates, key=lambda c: c[0])
    entries = {entry.name: entry for entry in table.entries}
    if distance >= len(entries):
        raise WeightsFileError(f"{source} does not belong to a known network: it has {_names(tensors)}")
    missing, unexpected = _missing(framework, model, table, arrays), _unexpected(framework, model, table, arrays)
    wrong = {"missing": missing, "unexpected": unexpected}
    if any(wrong.values()):
        details = "; ".join(f"{kind}: {_names(names)}" for kind, names in wrong.items() if names)
        raise WeightsFileError(f"{source} does not match {FAMILIES[model]} with {framework}'s names ({details})")
    _check_numbers({name: arrays[name] for name in entries}, source)
    logits = _logits(table)
    num_classes = 0
    if logits is not None:
        kernel = arrays[logits.name]
        num_classes = kernel.shape[0 if logits.axes else -1] if kernel.ndim == 2 else 0
    options = OPTIONS.get((framework, model), {}) | _read_options(model, table, arrays)
    _check_shapes(model, options, num_classes, table, arrays, source)
    floats = {name: np.asarray(arrays[name], np.float32) for name in entries}
    return Recognized(framework, model, options, num_classes, to_ours(floats, table))


def _candidates(tensors: Tensors) -> Iterator[tuple[str, str, Table, Tensors]]:
    """Candidates: framework, network, the table of such a file's arrays, and the file's arrays by the table's names."""
    keras, torch = canonical_keras(tensors), canonical_timm(tensors)
    for model in KERAS_MODELS:
        yield "keras", model, _with_head(keras_table(model), keras), keras
    for model in TIMM_MODELS:
        aux = any(name.startswith("AuxLogits.") for name in torch)
        yield "timm", model, _with_head(timm_table(model, aux_head=aux), torch), torch


def _logits(table: Table) -> Entry | None:
    """The kernel of the logits layer, if the table has one."""
    return next((e for e in table.entries if e.path == ("head", "logits", "kernel")), None)


def _with_head(table: Table, arrays: Tensors) -> Table:
    """The table, without the logits layer if the file has none."""
    logits = [e for e in table.entries if e.path[:2] == ("head", "logits")]
    if any(e.name in arrays for e in logits):
        return table
    return Table(tuple(e for e in table.entries if e not in logits), table.constants)


def _missing(framework: str, model: str, table: Table, arrays: Tensors) -> list[str]:
    return sorted({e.name for e in table.entries} - arrays.keys())


def _unexpected(framework: str, model: str, table: Table, arrays: Tensors) -> list[str]:
    return sorted(arrays.keys() - {e.name for e in table.entries} - table.constants.keys())


def _read_options(model: str, table: Table, arrays: Tensors) -> dict[str, Any]:
    """Options that follow from the arrays' shapes."""
    options: dict[str, Any] = {}
    if any(e.path[0] == "aux" for e in table.entries):
        options["aux_head"] = True
    if model == "xception":
        last = next(e for e in table.entries if e.path == ("block14", "sepconv2_bn", "scale"))
        if (channels := arrays[last.name].shape[-1]) != 2048:
            options["width"] = channels / 2048
    return options


def _check_numbers(arrays: Tensors, source: str) -> None:
    for name, x in arrays.items():
        if not np.issubdtype(np.asarray(x).dtype, np.floating) and x.dtype.name != "bfloat16":
            raise WeightsFileError(f"{source}: {name} has dtype {x.dtype}, which is not floating-point")
        if not np.isfinite(x).all():
            raise WeightsFileError(f"{source}: {name} has values that are not finite")
        if name.endswith(("running_var", "moving_variance")) and (np.asarray(x) < 0).any():
            raise WeightsFileError(f"{source}: {name} has negative variances")


def _check_shapes(
    model: str, options: dict[str, Any], num_classes: int, table: Table, arrays: Tensors, source: str
) -> None:
    """Raises WeightsFileError if an array does not have the shape that the network needs."""

    def build() -> Weights:
        return variables.split(models.create_model(model, num_classes=num_classes, rngs=nnx.Rngs(0), **options))[1]

    needed = nnx.eval_shape(build)
    flat = {"params": flatten_dict(needed.params), "batch_stats": flatten_dict(needed.batch_stats)}
    wrong = []
    for entry in table.entries:
        x, shape = arrays[entry.name], flat[entry.collection][entry.path].shape
        if x.ndim != len(shape) or tuple(x.shape[i] for i in entry.axes or range(x.ndim)) != shape:
            foreign = shape if entry.axes is None else tuple(shape[i] for i in np.argsort(entry.axes))
            wrong.append(f"{entry.name} {tuple(x.shape)} instead of {foreign}")
    if wrong:
        raise WeightsFileError(f"{source}: arrays of {FAMILIES[model]} have wrong shapes: {_names(wrong)}")


def _names(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "nothing") + more
