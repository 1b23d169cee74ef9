"""Slideflow's pathology models: a TensorFlow SavedModel of an Xception, and params.json with its settings.

J. Dolezal et al., arXiv 2304.04142. Published on the Hugging Face hub, under GPL-3.0, as `lung-adeno-squam-v1`,
`breast-er-v1` and `thyroid-brs-v1` of jamesdolezal. The graph is Keras' Xception without its top, average pooling,
dropout, hidden layers (dense, ReLU, batch normalization, dropout) called hidden_0, ..., and the dense layer prelogits.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import tensor_bundle
from xception_jax.inputs import stain
from xception_jax.models.variables import Weights
from xception_jax.pretrained.layouts.keras import canonical, keras_table, norm_entries, numbered
from xception_jax.pretrained.layouts.table import Entry, Table, to_ours

PARAMS = "params.json"
MAX_PARAMS = 16 << 20
LICENCE = "GPL-3.0"
SCORES: dict[Any, Literal["softmax", "linear"]] = {
    "categorical": "softmax",
    "classification": "softmax",
    "linear": "linear",
    "regression": "linear",
}
NUM_SHORTCUTS = 4  # the Xception layers that Keras numbers; those of the head follow


@dataclasses.dataclass(frozen=True)
class PathologyModel:
    """A pathology model and the input it expects.

    Attributes:
      tensors: its arrays by Keras' names, "hidden_0/kernel"; numbered layers count from 0.
      weights: the same in our layout.
      options: of `create_model("xception", ...)`: the head, and the width if it is not 1.
      num_classes: width of the logits.
      scores: the meaning of the logits: "softmax" over classes, or "linear", independent values.
      class_names: of the logits; () if params.json has none.
      uncertainty: whether it was trained for uncertainty estimates by dropout at inference.
      tile_px, tile_um: side of a tile, in pixels and in micrometres.
      stain: the stain normalization applied before per-image standardization, or None.
      licence: of the weights.
    """

    tensors: dict[str, np.ndarray]
    weights: Weights
    options: dict[str, Any]
    num_classes: int
    scores: Literal["softmax", "linear"]
    class_names: tuple[str, ...]
    uncertainty: bool
    tile_px: int
    tile_um: int
    stain: stain.Reinhard | None
    licence: str = LICENCE


def find(path: Path) -> Path | None:
    """The folder of a model, if `path` is one or contains one (like the repositories on the hub); otherwise None."""
    candidates = [path, *sorted(p.parent for p in path.glob("*/saved_model.pb"))]
    found = [p for p in candidates if (p / "saved_model.pb").is_file() and _params_file(p) is not None]
    return found[0] if found else None


def _params_file(folder: Path) -> Path | None:
    return next((p for p in (folder / PARAMS, folder.parent / PARAMS) if p.is_file()), None)


def read(path: str | Path) -> PathologyModel:
    """Reads a model.

    Args:
      path: the folder with saved_model.pb and variables/, with params.json inside or next to it; or its parent folder.

    Raises:
      WeightsFileError: there is no model, or it is damaged or not an Xception.
    """
    path = Path(path)
    folder = find(path)
    if folder is None:
        raise WeightsFileError(f"{path} is not a Slideflow model: it has no saved_model.pb with a {PARAMS}")
    file = _params_file(folder)
    assert file is not None
    try:
        params = _json(file)
        hp = _part(params, "hp", dict)
        scores = SCORES[_part(params, "model_type", str)]
        pooling, dropout = _part(hp, "pooling", str, "avg"), float(_part(hp, "dropout", (int, float), 0))
        if pooling != "avg" or not 0 <= dropout < 1:
            raise ValueError(f"unsupported pooling {pooling!r} or dropout {dropout}")
        tile_px, tile_um = (_part(hp if key in hp else params, key, int) for key in ("tile_px", "tile_um"))
        normalization = _stain(params, hp)
        hidden_layers, uncertainty = _part(hp, "hidden_layers", int, 0), _part(hp, "uq", bool, False)
        labels = _labels(params)
    except (KeyError, TypeError, ValueError) as e:
        raise WeightsFileError(f"{file} is damaged, or describes an unsupported model: {e}") from None

    tensors = canonical(tensor_bundle.read(folder))
    table, hidden, num_classes = _table(tensors, hidden_layers, folder)
    if labels and scores == "softmax" and len(labels) != num_classes:
        raise WeightsFileError(f"{file} names {len(labels)} classes, but the network has {num_classes}")
    options: dict[str, Any] = {"hidden": hidden, "hidden_norm": bool(hidden), "hidden_dropout": dropout}
    options["dropout"] = dropout
    if (features := tensors["block14_sepconv2_bn/gamma"].shape[0]) != 2048:
        options["width"] = features / 2048
    return PathologyModel(
        tensors,
        to_ours(tensors, table),
        options,
        num_classes,
        scores,
        labels if scores == "softmax" else (),
        uncertainty,
        tile_px,
        tile_um,
        normalization,
    )


def _json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_PARAMS:
        raise ValueError(f"the file is too large ({file.stat().st_size} bytes)")
    try:
        params = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(params, dict):
        raise ValueError("not a dictionary")
    return params


def _part(of: Mapping[str, Any], key: str, kind: Any, default: Any = None) -> Any:
    """A value, checked to be of a kind; `default` if it is missing."""
    value = of.get(key)
    value = default if value is None else value
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{key} is {value!r}")
    return value


def _labels(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names, from {"0": name, "1": name}."""
    labels = params.get("outcome_labels")
    if not isinstance(labels, dict) or not labels:
        return ()
    names = {int(i): str(name) for i, name in labels.items()}
    if sorted(names) != list(range(len(labels))):
        raise ValueError(f"outcome_labels are numbered {sorted(names)}")
    return tuple(names[i] for i in range(len(names)))


def _stain(params: Mapping[str, Any], hp: Mapping[str, Any]) -> stain.Reinhard | None:
    """The stain normalization: its fit is in `norm_fit`, or in `norm_mean` and `norm_std`, or is a preset."""
    normalizer = hp.get("normalizer")
    if normalizer in (None, "", "none"):
        return None
    if normalizer != "reinhard_fast":
        raise ValueError(f"stain normalization {normalizer!r}; only reinhard_fast is supported")
    fit = params.get("norm_fit") or {"target_means": params.get("norm_mean"), "target_stds": params.get("norm_std")}
    means, stds = (fit.get(key) for key in ("target_means", "target_stds"))
    if means is None and stds is None:
        return stain.PRESETS[hp.get("normalizer_source") or "v1"]
    return stain.Reinhard(_channels(means), _channels(stds))


def _channels(values: Any) -> stain.Channels:
    # Slideflow also writes arrays with one row.
    flat = np.asarray(values, np.float64).ravel()
    if len(flat) != 3 or not np.isfinite(flat).all():
        raise ValueError(f"invalid stain fit {values!r}")
    return float(flat[0]), float(flat[1]), float(flat[2])


def _table(tensors: Mapping[str, np.ndarray], hidden_layers: int, source: Path) -> tuple[Table, tuple[int, ...], int]:
    """The table of a model's arrays, the widths of its hidden layers, and the width of its logits."""
    dense = sorted((name.removesuffix("/kernel") for name, x in tensors.items() if x.ndim == 2), key=_order)
    if len(dense) != hidden_layers + 1:
        raise WeightsFileError(
            f"{source} has {len(dense)} dense layers, but {PARAMS} states {hidden_layers} and the logits"
        )
    entries = [*keras_table("xception", head=False).entries]
    for i, layer in enumerate(dense):
        ours = ("head", "hidden", i) if i < hidden_layers else ("head", "logits")
        entries += [Entry("params", (*ours, part), f"{layer}/{part}") for part in ("kernel", "bias")]
        if i < hidden_layers:
            norm = numbered("batch_normalization", NUM_SHORTCUTS + i)
            entries += norm_entries(("head", "hidden_norms", i), norm)
    names = {entry.name for entry in entries}
    wrong = {"missing": sorted(names - tensors.keys()), "unexpected": sorted(tensors.keys() - names)}
    if any(wrong.values()):
        details = "; ".join(f"{kind}: {', '.join(found[:5])}" for kind, found in wrong.items() if found)
        raise WeightsFileError(f"{source} does not match a pathology model's Xception ({details})")
    shapes = [tensors[f"{layer}/kernel"].shape for layer in dense]
    widths = [tensors["block14_sepconv2_bn/gamma"].shape[0], *(shape[1] for shape in shapes)]
    if [shape[0] for shape in shapes] != widths[:-1]:
        raise WeightsFileError(f"{source}: the shapes of the dense layers do not fit together ({dense}: {shapes})")
    return Table(tuple(entries)), tuple(widths[1:-1]), widths[-1]


def _order(layer: str) -> tuple[float, str]:
    """A sort key: hidden_0, hidden_1, ..., and the logits last."""
    found = re.fullmatch(r"hidden_(\d+)", layer)
    return (int(found[1]) if found else math.inf, layer)
