"""The comparison of two networks on the same examples."""

from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import UserError
from xception_jax.evaluation import report, statistics
from xception_jax.evaluation.report import Predictions

SIGNIFICANT = 0.05
MOST_CLASSES = 10


def compare(path_a: Path, path_b: Path, split: str | None = None) -> dict[str, Any]:
    """Compares two certificates; the result is a dictionary for JSON.

    Args:
      path_a, path_b: certificates, or work directories.
      split: selects a split if the work directories have several.

    Returns:
      a, b: their paths and figures. only_a, only_b: number of examples that only one classified correctly. p_value:
      McNemar's. difference: in top-1, B - A, with difference_interval (95 %). verdict: a sentence. classes: those with
      the largest differences, in descending order. seen_differently: A's and B's values of what determines the pixels
      that they saw, by name, where they differ; certificates of version 0.1.0 do not tell.

    Raises:
      UserError: a certificate cannot be read, or they are not of the same examples.
    """
    record_a, a = report.read(path_a, split)
    record_b, b = report.read(path_b, split)
    names = _names(record_a)
    if record_a["split"] != record_b["split"]:
        raise UserError(
            f'A is of split "{record_a["split"]}" but B of split "{record_b["split"]}"; compare the same split'
        )
    if names != _names(record_b):
        raise UserError(f"A and B have different classes: A has {len(names)}, B has {len(_names(record_b))}")
    b = _in_order_of(a, b)
    test = statistics.mcnemar(a.correct, b.correct)
    return {
        "split": record_a["split"],
        "a": _figures(path_a, record_a),
        "b": _figures(path_b, record_b),
        **test._asdict(),
        "difference": (test.only_b - test.only_a) / len(a.ids),
        "difference_interval": statistics.paired_difference_interval(test.only_a, test.only_b, len(a.ids)),
        "verdict": verdict(test, len(a.ids)),
        "classes": _classes(a, b, names),
        "seen_differently": _seen_differently(record_a, record_b),
    }


def verdict(test: statistics.McNemar, n: int) -> str:
    """The test's result for `n` examples, as a sentence."""
    points = 100 * (test.only_b - test.only_a) / n
    chance = "p < 0.0001" if test.p_value < 1e-4 else f"p = {test.p_value:.2g}"
    if test.p_value >= SIGNIFICANT:
        return f"No significant difference: B - A is {points:+.2f} points ({chance})."
    return f"{'B' if points > 0 else 'A'} is better by {abs(points):.2f} points ({chance})."


def _names(record: dict[str, Any]) -> list[str]:
    return [c["name"] for c in record["per_class"]]


def _seen_differently(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    """How the pictures of A and B were seen, where that differs, if both certificates tell."""
    of_a, of_b = (record.get("pictures", {}) for record in (a, b))
    shared = of_a.keys() & of_b.keys() - {"treated"}
    return {name: [of_a[name], of_b[name]] for name in sorted(shared) if of_a[name] != of_b[name]}


def _figures(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A certificate's figures for the table."""
    fields = ("model", "num_parameters", "step", "averaged", "count", "metrics")
    return {"path": str(path), **{name: record[name] for name in fields}}


def _in_order_of(a: Predictions, b: Predictions) -> Predictions:
    """B's predictions in the order of A's examples. Raises UserError unless examples and labels are the same."""
    only_a, only_b = sorted(set(a.ids) - set(b.ids)), sorted(set(b.ids) - set(a.ids))
    if only_a or only_b:
        parts = [f'{len(ids)} only in {x} ("{ids[0]}")' for x, ids in (("A", only_a), ("B", only_b)) if ids]
        raise UserError(f"A and B have different examples: {', '.join(parts)}; evaluate both on the same data")
    row = {name: i for i, name in enumerate(b.ids)}
    order = np.array([row[name] for name in a.ids])
    b = Predictions(a.ids, b.labels[order], b.top5[order], b.confidence[order], b.loss[order])
    differ = np.flatnonzero(a.labels != b.labels)
    if len(differ):
        first = a.ids[differ[0]]
        raise UserError(
            f'A and B have different labels for {len(differ)} examples ("{first}"); evaluate both on the same data'
        )
    return b


def _classes(a: Predictions, b: Predictions, names: list[str]) -> list[dict[str, Any]]:
    """The classes with different numbers of correct predictions by A and B, sorted by that difference."""
    counts, right_a, right_b = (
        np.bincount(a.labels, weights=weights, minlength=len(names)).astype(int)
        for weights in (None, a.correct, b.correct)
    )
    gaps = right_b - right_a
    order = np.argsort(-np.abs(gaps), kind="stable")
    return [
        {"name": names[i], "count": int(counts[i]), "correct_a": int(right_a[i]), "correct_b": int(right_b[i])}
        for i in order[:MOST_CLASSES]
        if gaps[i]
    ]
