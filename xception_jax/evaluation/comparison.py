"""The comparison of two networks on the same examples."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import UserError
from xception_jax.evaluation import analysis, report, statistics
from xception_jax.evaluation.outcome import Outcome
from xception_jax.evaluation.predictions import PerExample, Predictions, Scored
from xception_jax.tasks.task import FIGURES
from xception_jax.terminal.words import significant

SIGNIFICANT = 0.05
MOST_CLASSES = 10


def compare(path_a: Path, path_b: Path, split: str | None = None) -> dict[str, Any]:
    """Compares two certificates; the result is a dictionary for JSON.

    Args:
      path_a, path_b: certificates, or work directories.
      split: selects a split if the work directories have several.

    Returns:
      task; a, b: their paths and figures. p_value of the paired test; difference, B - A, with difference_interval
      (95 %). verdict: a sentence. classes: those with the largest differences, in descending order. seen_differently:
      A's and B's values of what determines the pixels that they saw, and whether they chose among the classes of the
      split alone, by name, where they differ; certificates of version 0.1.0 do not tell of pixels.
        One class of several: McNemar's test and the difference in top-1; only_a, only_b: number of examples that only
        one classified correctly.
        Otherwise: a test with random signs of the images' differences in figure (average precision at 100, absolute
        error); differences: of all figures, with intervals of resampled images.

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
    if a.task is not b.task:
        raise UserError(f"A is of the task {a.task.name} but B of {b.task.name}; compare networks for the same")
    if names != _names(record_b):
        raise UserError(f"A and B have different classes: A has {len(names)}, B has {len(_names(record_b))}")
    b = _in_order_of(a, b)
    return {
        "split": record_a["split"],
        "task": a.task.name,
        "a": _figures(path_a, record_a),
        "b": _figures(path_b, record_b),
        **tested(a, b, names),
        "seen_differently": _seen_differently(record_a, record_b),
    }


def compare_all(paths: Sequence[Path], split: str | None = None) -> dict[str, Any]:
    """Compares any number of certificates with the first; the result is a dictionary for JSON.

    Args:
      paths: certificates, or work directories; two or more.
      split: selects a split if the work directories have several.

    Returns:
      split and task; runs: paths and figures, the first one's first. against_first: for each of the others difference,
      difference_interval and p_value as of `compare`, and holm_p_value, the p-value of Holm's method, for which all of
      them together are wrong in 5 % of cases if significance is 0.05.

    Raises:
      UserError: as `compare`, with the names of the two.
    """
    first, *others = paths
    found = [compare(first, other, split) for other in others]
    corrected = statistics.holm([result["p_value"] for result in found])
    kept = ("figure", "difference", "difference_interval", "p_value")
    return {
        "split": found[0]["split"],
        "task": found[0]["task"],
        "runs": [found[0]["a"], *(result["b"] for result in found)],
        "against_first": [
            {name: result[name] for name in kept if name in result} | {"holm_p_value": p_value}
            for result, p_value in zip(found, corrected, strict=True)
        ],
    }


@functools.singledispatch
def tested(a: PerExample, b: PerExample, names: list[str]) -> dict[str, Any]:
    """The part of a comparison that depends on what is predicted."""
    raise NotImplementedError


@tested.register
def _(a: Predictions, b: Predictions, names: list[str]) -> dict[str, Any]:
    test = statistics.mcnemar(a.correct, b.correct)
    return {
        **test._asdict(),
        "difference": (test.only_b - test.only_a) / len(a.ids),
        "difference_interval": statistics.paired_difference_interval(test.only_a, test.only_b, len(a.ids)),
        "verdict": verdict(test, len(a.ids)),
        "classes": _classes(a, b, names),
    }


@tested.register
def _(a: Scored, b: Scored, names: list[str]) -> dict[str, Any]:
    name = a.task.of_batches[0]
    left, right = (side.outcome(class_names=names) for side in (a, b))
    gaps = analysis.of_images(right) - analysis.of_images(left)
    p_value = statistics.sign_flip_test(gaps[np.isfinite(gaps)])
    differences = analysis.differences(left, right)
    found = differences.get(name) or {"value": float(np.nanmean(gaps)), "interval": None}
    return {
        "figure": name,
        "p_value": p_value,
        "difference": found["value"],
        "difference_interval": found["interval"],
        "differences": {other: differences[other] for other in a.task.figures if other in differences},
        "verdict": verdict_of(name, found["value"], p_value),
        "classes": _differing(left, right, names),
    }


def verdict(test: statistics.McNemar, n: int) -> str:
    """The test's result for `n` examples, as a sentence."""
    points = 100 * (test.only_b - test.only_a) / n
    chance = "p < 0.0001" if test.p_value < 1e-4 else f"p = {test.p_value:.2g}"
    if test.p_value >= SIGNIFICANT:
        return f"No significant difference: B - A is {points:+.2f} points ({chance})."
    return f"{'B' if points > 0 else 'A'} is better by {abs(points):.2f} points ({chance})."


def verdict_of(name: str, difference: float | None, p_value: float) -> str:
    """The result of a test of a figure's difference, B - A, as a sentence."""
    chance = "p < 0.001" if p_value < 1e-3 else f"p = {p_value:.2g}"
    title = FIGURES[name].title
    if difference is None or p_value >= SIGNIFICANT:
        gap = "undefined" if difference is None else significant(difference, "+")
        return f"No significant difference: B - A is {gap} in {title} ({chance})."
    better = "B" if (difference > 0) != FIGURES[name].lowest else "A"
    return f"{better} is better by {significant(abs(difference))} in {title} ({chance})."


def _names(record: dict[str, Any]) -> list[str]:
    return [c["name"] for c in record["per_class"]]


def _seen_differently(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    """How the pictures of A and B were seen, where that differs, if both certificates tell."""
    of_a, of_b = (record.get("pictures", {}) | _chosen_among(record) for record in (a, b))
    shared = of_a.keys() & of_b.keys() - {"treated"}
    return {name: [of_a[name], of_b[name]] for name in sorted(shared) if of_a[name] != of_b[name]}


def _chosen_among(record: dict[str, Any]) -> dict[str, Any]:
    return {"only_present": record["config"].get("evaluation", {}).get("only_present", False)}


def _figures(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A certificate's figures for the table."""
    fields = ("model", "num_parameters", "step", "averaged", "count", "metrics")
    return {"path": str(path), **{name: record[name] for name in fields}}


def _in_order_of(a: PerExample, b: PerExample) -> PerExample:
    """B's predictions in the order of A's examples. Raises UserError unless examples and labels are the same."""
    only_a, only_b = sorted(set(a.ids) - set(b.ids)), sorted(set(b.ids) - set(a.ids))
    if only_a or only_b:
        parts = [f'{len(ids)} only in {x} ("{ids[0]}")' for x, ids in (("A", only_a), ("B", only_b)) if ids]
        raise UserError(f"A and B have different examples: {', '.join(parts)}; evaluate both on the same data")
    row = {name: i for i, name in enumerate(b.ids)}
    order = np.array([row[name] for name in a.ids])
    b = b.rows(order)
    same = (a.labels == b.labels) | (np.isnan(a.labels) & np.isnan(b.labels))
    differ = np.flatnonzero(~same.reshape(len(a.ids), -1).all(axis=1))
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


def _differing(a: Outcome, b: Outcome, names: list[str]) -> list[dict[str, Any]]:
    """The classes, or target values, whose average precision, or absolute error, differs most."""
    figure = next(name for name in ("average_precision", "mae") if name in analysis.of_classes(a))
    of_a, of_b = (analysis.of_classes(side)[figure] for side in (a, b))
    gaps = np.nan_to_num(of_b - of_a)
    order = np.argsort(-np.abs(gaps), kind="stable")[:MOST_CLASSES]
    return [
        {"name": names[i], "figure": figure, "a": float(of_a[i]), "b": float(of_b[i])} for i in order if gaps[i] != 0
    ]
