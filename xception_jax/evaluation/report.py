"""Evaluation certificates: a network's figures, and everything needed to verify or reproduce them.

`evaluation-<split>.json` holds the figures; `evaluation-<split>-predictions.npz` next to it holds the predictions for
each example, so that two networks can be compared example by example. The former names the latter and its SHA-256.

Shape legend: N examples, K classes.
"""

import dataclasses
import datetime
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from xception_jax.config import input_spec
from xception_jax.errors import UserError, suggest
from xception_jax.evaluation.predictions import PerExample, from_columns
from xception_jax.evaluation.predictions import Predictions as Predictions
from xception_jax.filesystem import atomic
from xception_jax.tasks.task import SINGLE_LABEL
from xception_jax.workdir import identity

OWN = "metric/"  # prefix of columns of the run's own metrics


@dataclasses.dataclass
class Seen:
    """What became of a split's images.

    Attributes:
      unreadable: why, by the name of each that could not be read.
      treated: number of those that are not ordinary, by what was done to them, see `data.decode`.
    """

    unreadable: Mapping[str, str]
    treated: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """The images that are not ordinary, in words."""
        return ", ".join(f"{count:,} image{'s' if count > 1 else ''} {what}" for what, count in self.treated.items())


def certificate(
    predictions: PerExample,
    *,
    split: str,
    split_size: int,
    seen: Seen,
    class_names: Sequence[str],
    weights_hash: str,
    preprocessing: str,
    pictures: Mapping[str, Any],
    averaged: bool,
    step: int,
    model_name: str,
    num_parameters: int,
    config: dict[str, Any],
    name: str | None = None,
) -> dict[str, Any]:
    """The certificate of an evaluation, for JSON.

    Args:
      predictions: for each readable example of the split.
      split: its name.
      split_size: its number of examples.
      seen: what became of them.
      class_names: K names.
      weights_hash: `hash_weights` of the evaluated weights.
      preprocessing: a hash of `pictures`.
      pictures: how they are seen, `inputs.views.how_seen`.
      averaged: whether the weights are Polyak averages.
      step: number of optimizer steps that the weights were trained for.
      model_name: the network's name.
      num_parameters: its number of trainable parameters.
      config: the run's settings.
      name: the evaluation's, which its files have; None: the split's.
    """
    count = len(predictions.ids)
    unread = len(seen.unreadable)
    assert count + unread == split_size, f"{count} evaluated and {unread} unreadable of {split_size} examples"
    assert len(set(predictions.ids)) == count, "an example was evaluated twice"
    found, per_class = predictions.report(split, list(class_names))
    return {
        "model": model_name,
        "num_parameters": num_parameters,
        "step": step,
        "averaged": averaged,
        "weights_hash": weights_hash,
        "name": name or split,
        "split": split,
        "split_size": split_size,
        "count": count,
        "unreadable": dict(seen.unreadable),
        **found,
        "preprocessing": preprocessing,
        "pictures": {**pictures, "treated": dict(seen.treated)},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **identity.environment(),
        "config": config,
        "per_class": per_class,
    }


def hash_weights(tree: Any) -> str:
    """SHA-256, in hexadecimal, of a pytree's paths, dtypes, shapes and values, wherever its arrays are stored."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    digest = hashlib.sha256()
    for name in sorted(named):
        array = np.asarray(named[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def name_of(workdir: Path, own: ConfigDict, asked: ConfigDict, split: str, source: dict[str, Any]) -> str:
    """The name of an evaluation's files: the split's, if the data, how it is seen and what is asked are the run's own.

    Otherwise the data set's name and some digits follow, which are others for each other data, input, task or loss.

    Args:
      workdir: the run's folder.
      own, asked: the run's settings and the evaluation's.
      split: its name.
      source: `identity.of_source` of the split.
    """
    own_source = identity.recorded(workdir, split)
    if own_source is None:  # not a split of the run, or the run is of version 0.1.0
        same_data = (own.data.name, own.data.path) == (asked.data.name, asked.data.path)
    else:
        same_data = not identity.differences(own_source, source)
    spec, same_input = input_spec(asked), input_spec(asked) == input_spec(own)
    asks = [(c.task, c.evaluation.only_present, *([c.loss] if own.loss != asked.loss else [])) for c in (own, asked)]
    if same_data and same_input and asks[0] == asks[1]:
        return split
    other = f" {asks[1]}" if asks[0] != asks[1] else ""
    data = Path(asked.data.path).name if asked.data.name in ("folder", "table") else asked.data.name
    digits = hashlib.sha256(f"{source} {spec}{other}".encode()).hexdigest()[:8]
    return f"{split}-{data}-{digits}"


def path_of(folder: Path, name: str) -> Path:
    """The path of the certificate of that name."""
    return folder / f"evaluation-{_file_name(name)}.json"


def write(folder: Path, record: dict[str, Any], predictions: PerExample) -> Path:
    """Writes a certificate and its predictions into a folder, replacing those of the same name.

    Args:
      folder: the folder.
      record: the certificate.
      predictions: as for `certificate`.

    Returns:
      The certificate's path.
    """
    path = path_of(folder, record["name"])
    file = path.with_name(f"{path.stem}-predictions.npz")
    buffer = io.BytesIO()
    columns = predictions.columns() | {f"{OWN}{name}": column for name, column in predictions.own.items()}
    np.savez_compressed(buffer, **columns)  # type: ignore[arg-type]
    atomic.write_atomically(file, buffer.getvalue())
    entry = {"file": file.name, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    # JSON has no NaN, but the loss of a diverged network may be NaN.
    figures = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record["metrics"].items()}
    contents = {**record, "metrics": figures, "predictions": entry}
    atomic.write_atomically(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")
    return path


def read(path: Path, split: str | None = None) -> tuple[dict[str, Any], PerExample]:
    """A certificate and its predictions.

    Args:
      path: of the certificate, or of its work directory.
      split: selects a split, or another evaluation by its name, if the work directory has several.

    Raises:
      UserError: there is no certificate, there are several, or it or its predictions are damaged.
    """
    by_name = path.is_dir()
    path = _find(path, split)
    try:
        record = json.loads(path.read_bytes())
        file, sha256 = path.with_name(record["predictions"]["file"]), record["predictions"]["sha256"]
        certified_split = record["split"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is not an evaluation certificate, or is damaged ({e!r}); evaluate again") from None
    if not by_name and split not in (None, certified_split):
        raise UserError(f'{path} is of split "{certified_split}", not "{split}"')
    try:
        contents = file.read_bytes()
    except OSError as e:
        raise UserError(f"{file}, to which {path.name} refers, cannot be read ({e.strerror}); evaluate again") from None
    if hashlib.sha256(contents).hexdigest() != sha256:
        raise UserError(f"{file} is damaged, or does not belong to {path.name}; evaluate again")
    with np.load(io.BytesIO(contents)) as columns:  # pickles are refused by default
        own = {name.removeprefix(OWN): columns[name] for name in columns if name.startswith(OWN)}
        usual = {name: columns[name] for name in columns if not name.startswith(OWN)}
        return record, from_columns(record.get("task", SINGLE_LABEL.name), usual, own)


def _find(path: Path, split: str | None) -> Path:
    """The path of the certificate for `read`."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is neither a certificate nor a work directory at {path}")
    found = {p.stem.removeprefix("evaluation-"): p for p in sorted(path.glob("evaluation-*.json"))}
    if not found:
        raise UserError(f"{path} has no evaluation-<split>.json; write it with xception-jax evaluate --workdir={path}")
    if split is None and len(found) > 1:
        raise UserError(f"{path} has evaluations of several splits; choose one with --split: {', '.join(found)}")
    name = next(iter(found)) if split is None else _file_name(split)
    if name not in found:
        raise UserError(f'{path} has no evaluation of split "{split}"; {suggest(name, found)}')
    return found[name]


def _file_name(split: str) -> str:
    """A split's name ("test[:50%]") as part of a file name."""
    return re.sub(r"[^\w.+-]", "_", split)
