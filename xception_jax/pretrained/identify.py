"""Recognises the network that a file's arrays belong to, by their names and shapes, not by the file name."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from xception_jax import models
from xception_jax.errors import UserError, WeightsFileError, some
from xception_jax.models import variables
from xception_jax.models.variables import Weights
from xception_jax.models.xception import MIDDLE
from xception_jax.pretrained.layouts import checkpoint
from xception_jax.pretrained.layouts.keras import MODELS as KERAS_MODELS
from xception_jax.pretrained.layouts.keras import canonical as canonical_keras
from xception_jax.pretrained.layouts.keras import keras_table
from xception_jax.pretrained.layouts.table import Entry, Table, to_ours
from xception_jax.pretrained.layouts.timm import LAYERS as TIMM_MODELS

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
# Only the outputs tell the network of TensorFlow's inception-2015-12-05 from torchvision's, whose arrays are the same.
FID_CLASSES = 1008


@dataclasses.dataclass(frozen=True)
class Recognized:
    """The network recognised from a file's arrays.

    Attributes:
      framework: the naming convention, "keras" or "timm" (also for torchvision's Inception V3).
      model, options, num_classes: the network, as for `create_model`; 0 classes if there is no logits layer.
      weights: the arrays in our layout, float32.
      notes: what was left out or chosen, for people.
      assumed: what the file does not say, for people.
    """

    framework: str
    model: str
    options: dict[str, Any]
    num_classes: int
    weights: Weights
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file read as one network's.

    Attributes:
      framework, model: as of `Recognized`.
      table: of such a file's arrays.
      arrays: the file's, by the table's names.
      unexpected: those without a place, by the file's names.
      notes, assumed: as of `Recognized`.
      refusal: why it cannot be read although its backbone is there; "" if it can.
      head: the network's option of this name; "" for a single layer.
    """

    framework: str
    model: str
    table: Table
    arrays: Tensors
    unexpected: Sequence[str]
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    refusal: str = ""
    head: str = ""

    @property
    def missing(self) -> set[str]:
        """Arrays of the table that the file lacks."""
        return {entry.name for entry in self.table.entries} - self.arrays.keys()

    @property
    def distance(self) -> int:
        """How many arrays are missing or have no place."""
        return len(self.missing) + len(self.unexpected)


def recognize(
    tensors: Tensors,
    source: str,
    ignore: Sequence[str] = (),
    head: str = "",
    *,
    middle_blocks: int = len(MIDDLE),
) -> Recognized:
    """Recognises the network that a file's arrays belong to.

    Args:
      tensors: by their names in the file.
      source: the file, for messages.
      ignore: patterns (of `fnmatch`) of names in the file whose arrays are left out.
      head: PyTorch's names: as for `load`.
      middle_blocks: of an Xception with Keras' names, as its graph says.

    Raises:
      WeightsFileError: the network is unknown, or arrays are missing, unexpected, not finite or have wrong shapes.
      UserError: a pattern matches no name.
    """
    tensors, ignored = without(tensors, ignore, source)
    best = min(_candidates(tensors, head, middle_blocks), key=lambda candidate: candidate.distance)
    _check(best, tensors, source)
    framework, model, table, arrays = best.framework, best.model, best.table, best.arrays
    entries = {entry.name: entry for entry in table.entries}
    _check_numbers({name: arrays[name] for name in entries}, source)
    logits = _logits(table)
    num_classes = 0
    if logits is not None:
        kernel = arrays[logits.name]
        num_classes = kernel.shape[0 if logits.axes else -1] if kernel.ndim == 2 else 0
    options = OPTIONS.get((framework, model), {}) | _read_options(model, table, arrays)
    options |= {"head": best.head} if best.head else {}
    notes, assumed = ignored + best.notes, best.assumed
    if (framework, model) == ("timm", "inception_v3") and "aux_head" not in options:
        if num_classes == FID_CLASSES:
            options["flavour"] = "fid"
            notes += (f"FID's Inception V3, as it has {FID_CLASSES} outputs",)
        elif not num_classes:
            assumed += ("torchvision's network: FID's has the same arrays (config.model.flavour=fid says otherwise)",)
    _check_shapes(model, options, num_classes, table, arrays, source)
    floats = {name: np.asarray(arrays[name], np.float32) for name in entries}
    return Recognized(framework, model, options, num_classes, to_ours(floats, table), notes, assumed)


def without(tensors: Tensors, ignore: Sequence[str], source: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays whose names match none of the patterns, and a note of those that do.

    Raises:
      UserError: a pattern matches no name.
    """
    for pattern in ignore:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in tensors):
            raise UserError(
                f"--ignore={pattern} matches none of the arrays of {source}, such as {some(sorted(tensors))}"
            )
    ignored = {name for name in tensors if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)}
    kept = {name: x for name, x in tensors.items() if name not in ignored}
    return kept, (f"ignored {len(ignored)} arrays: {some(sorted(ignored))}",) if ignored else ()


def _candidates(tensors: Tensors, head: str, middle_blocks: int) -> Iterator[Candidate]:
    keras = canonical_keras(tensors)
    for model in KERAS_MODELS:
        table = _with_head(keras_table(model, middle_blocks=middle_blocks), keras)
        yield Candidate("keras", model, table, keras, sorted(keras.keys() - {e.name for e in table.entries}))
    for model in TIMM_MODELS:
        yield Candidate("timm", model, **vars(checkpoint.read(tensors, model, head)))


def _check(found: Candidate, tensors: Tensors, source: str) -> None:
    """Raises WeightsFileError unless each of the network's arrays is there, and no other."""
    if found.distance >= len(found.table.entries):
        raise WeightsFileError(
            f"{source} does not belong to a known network: it has {some(sorted(tensors)) or 'nothing'}"
        )
    family = f"{FAMILIES[found.model]} with {found.framework}'s names"
    if found.refusal:
        raise WeightsFileError(f"{source} has the arrays of {family}, but {found.refusal}")
    wrong = {"missing": found.missing, "unexpected": found.unexpected}
    if any(wrong.values()):
        details = "; ".join(f"{kind}: {some(sorted(names))}" for kind, names in wrong.items() if names)
        advice = "" if found.missing else "; --ignore=PATTERN loads the network without those that it matches"
        raise WeightsFileError(f"{source} does not match {family} ({details}){advice}")


def _logits(table: Table) -> Entry | None:
    """The kernel of the logits layer, if the table has one."""
    return next((e for e in table.entries if e.path == ("head", "logits", "kernel")), None)


def _with_head(table: Table, arrays: Tensors) -> Table:
    """The table, without the logits layer if the file has none."""
    logits = [e for e in table.entries if e.path[:2] == ("head", "logits")]
    if any(e.name in arrays for e in logits):
        return table
    return Table(tuple(e for e in table.entries if e not in logits), table.constants)


def _read_options(model: str, table: Table, arrays: Tensors) -> dict[str, Any]:
    """Options that follow from the arrays' shapes."""
    options: dict[str, Any] = {}
    if any(e.path[0] == "aux" for e in table.entries):
        options["aux_head"] = True
    if model == "xception":
        last = next(e for e in table.entries if e.path == ("block14", "sepconv2_bn", "scale"))
        if (channels := arrays[last.name].shape[-1]) != 2048:
            options["width"] = channels / 2048
        if (blocks := len({e.path[0] for e in table.entries} & {name for name, *_ in MIDDLE})) != len(MIDDLE):
            options["middle_blocks"] = blocks
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
        return variables.split(models.build_network(model, num_classes=num_classes, rngs=nnx.Rngs(0), **options))[1]

    needed = nnx.eval_shape(build)
    flat = {"params": flatten_dict(needed.params), "batch_stats": flatten_dict(needed.batch_stats)}
    wrong = []
    for entry in table.entries:
        x, shape = arrays[entry.name], flat[entry.collection][entry.path].shape
        if x.ndim != len(shape) or tuple(x.shape[i] for i in entry.axes or range(x.ndim)) != shape:
            foreign = shape if entry.axes is None else tuple(shape[i] for i in np.argsort(entry.axes))
            wrong.append(f"{entry.name} {tuple(x.shape)} instead of {foreign}")
    if wrong:
        raise WeightsFileError(f"{source}: arrays of {FAMILIES[model]} have wrong shapes: {some(sorted(wrong))}")
