"""What an evaluation found, and all that is needed to trust it: a JSON file, and every prediction beside it."""

import dataclasses
import datetime
import hashlib
import io
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from xception_jax import files, metrics
from xception_jax.errors import UserError

PACKAGES = (
    "xception-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless",
)  # fmt: skip


@dataclasses.dataclass
class Predictions:
    """What a network said of each example of a split, in the split's order.

    Attributes:
      ids: the examples' names.
      labels: true classes.
      top5: the most probable classes, most probable first; fewer columns where there are fewer classes.
      confidence: the highest softmax probability.
      loss: cross-entropy in nats.
    """

    ids: list[str]
    labels: Int[np.ndarray, " N"]
    top5: Int[np.ndarray, "N k"]
    confidence: Float[np.ndarray, " N"]
    loss: Float[np.ndarray, " N"]

    def correct(self, k: int = 1) -> np.ndarray:
        """Whether the true class is among the first k, bool [N]."""
        return (self.top5[:, :k] == self.labels[:, None]).any(1)

    def metrics(self) -> dict[str, float]:
        """Means over the examples: top1, top5 and loss."""
        return {
            "top1": float(self.correct(1).mean()),
            "top5": float(self.correct(5).mean()),
            "loss": float(self.loss.astype(np.float64).mean()),
        }


def certificate(
    predictions: Predictions,
    *,
    split: str,
    split_size: int,
    skipped: list[str],
    class_names: list[str],
    **facts: Any,
) -> dict[str, Any]:
    """The certificate of an evaluation, ready for JSON.

    Args:
      predictions: of the split's examples.
      split: its name.
      split_size: how many examples it has.
      skipped: the names of those that could not be read.
      class_names: by label.
      **facts: what else there is to know: model, step, hashes of weights and preprocessing, config.
    """
    count = len(predictions.ids)
    assert count + len(skipped) == split_size, "every example is evaluated once or named as unreadable"
    correct = {name: predictions.correct(k) for name, k in (("top1", 1), ("top5", 5))}
    return {
        "split": split,
        "split_size": split_size,
        "count": count,
        "skipped": skipped,
        "metrics": {
            **predictions.metrics(),
            **{f"{k}_interval": metrics.wilson_interval(int(v.sum()), count) for k, v in correct.items()},
            "calibration_error": metrics.expected_calibration_error(predictions.confidence, correct["top1"]),
        },
        "per_class": metrics.per_class(predictions.labels, predictions.top5[:, 0], class_names),
        **facts,
        **environment(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def environment() -> dict[str, Any]:
    """Versions of what computes, and the devices it computes on."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def hash_weights(tree: Any) -> str:
    """SHA-256 of a tree of arrays: of each one's path, dtype, shape and bytes, wherever the arrays lie."""
    digest = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(tree)):
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def write(workdir: Path, record: dict[str, Any], predictions: Predictions) -> Path:
    """Writes evaluation-<split>.npz, the predictions, then evaluation-<split>.json; returns the latter's path."""
    path = workdir / f"evaluation-{record['split'].replace('/', '_')}.json"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dataclasses.asdict(predictions))
    arrays = buffer.getvalue()
    files.write_atomically(path.with_suffix(".npz"), arrays)
    record = {**record, "predictions_sha256": hashlib.sha256(arrays).hexdigest()}
    files.write_atomically(path, json.dumps(record, indent=2) + "\n")
    return path


def read(path: Path) -> tuple[dict[str, Any], Predictions]:
    """A certificate and its predictions.

    Args:
      path: the JSON file, or a work directory that holds one.

    Raises:
      UserError: there is none, there are several, or the predictions are not those of the certificate.
    """
    if path.is_dir():
        found = sorted(path.glob("evaluation-*.json"))
        if len(found) != 1:
            names = ", ".join(p.name for p in found)
            hint = f"name one of its files: {names}" if found else "make one: xception_jax.main --mode=evaluate"
            raise UserError(f"{path} holds {len(found)} evaluations; {hint}")
        path = found[0]
    record, arrays = files.read_json(path), path.with_suffix(".npz")
    if not arrays.exists() or "predictions_sha256" not in record:
        raise UserError(f"{path} has no predictions beside it ({arrays.name}); evaluate again")
    data = arrays.read_bytes()
    if hashlib.sha256(data).hexdigest() != record["predictions_sha256"]:
        raise UserError(f"{arrays} is not what {path.name} was made from; evaluate again")
    with np.load(io.BytesIO(data)) as columns:  # refuses pickles
        return record, Predictions(**{**columns, "ids": columns["ids"].tolist()})
