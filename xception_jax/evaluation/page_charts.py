"""The charts of a page: ranking, calibration, what is left out, predicted and true values."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xception_jax.evaluation import drawing, markup
from xception_jax.evaluation.drawing import Axis
from xception_jax.evaluation.outcome import Outcome

MOST_CURVES = drawing.COLOURS  # classes whose curves, or target values whose points, are drawn
MOST_POINTS = 2000  # of a scatter plot, or a curve
UNIT = (0.0, 1.0)


def section(title: str, words: str, charts: Iterable[tuple[str, str]]) -> str:
    """Charts with their titles, under a title and words (HTML)."""
    figures = "".join(
        f"<figure><figcaption><b>{markup.name(name)}</b></figcaption>{chart}</figure>" for name, chart in charts
    )
    return f'<h2>{title}</h2><p>{words}</p><div class="charts">{figures}</div>'


def ranking(outcome: Outcome) -> str:
    """ROC and precision-recall curves, of the second of two classes, or of each of a few against the others.

    Nothing if no class has images with and without it.
    """
    roc, recall = {}, {}
    k = len(outcome.class_names)
    targets = outcome.targets[:, None] == np.arange(k) if outcome.task == "single_label" else outcome.targets == 1
    for i in range(1 if outcome.task == "single_label" and k == 2 else 0, k):
        positive, scores = targets[:, i], outcome.scores[:, i]
        if not positive.all() and positive.any():
            roc[outcome.class_names[i]], recall[outcome.class_names[i]] = _ranked(scores, positive)
    if not roc:
        return ""
    charts = [
        (
            "ROC",
            drawing.chart(roc, Axis("false positive rate", range=UNIT), Axis("recall", range=UNIT), diagonal=True),
        ),
        ("Precision and recall", drawing.chart(recall, Axis("recall", range=UNIT), Axis("precision", range=UNIT))),
    ]
    return section("Ranking", "The trade-off at every decision threshold.", charts)


def _ranked(scores: np.ndarray, positive: np.ndarray) -> tuple[Any, Any]:
    """The points of both curves, at most some thousand."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of ties
    last = last[np.unique(np.linspace(0, len(last) - 1, MOST_POINTS).astype(int))]
    hits = np.cumsum(positive[order])[last]
    recall = hits / positive.sum()
    return (np.append(0, (last + 1 - hits) / (~positive).sum()), np.append(0, recall)), (recall, hits / (last + 1))


def certainty(analysis: Mapping[str, Any]) -> str:
    """Reliability diagrams before and after temperature scaling, and accuracy by the share of images kept."""
    calibration = analysis["calibration"]
    scaled = calibration["temperature"] != 1
    titles = (
        {"before": "Before temperature scaling", "after": "After it"} if scaled else {"after": "Scores as they are"}
    )
    pairs = analysis["task"] == "multi_label"
    charts = [
        (f"{title}: ECE {calibration[key]['ece']:.3f}", _reliability(calibration[key]["bins"], pairs))
        for key, title in titles.items()
    ]
    if "kept" in analysis:
        kept = {f"by {name}": values for name, values in analysis["kept"].items() if name != "share"}
        low = min(0.95, *(min(values) for values in kept.values()))
        chart = drawing.chart(
            {name: (analysis["kept"]["share"], values) for name, values in kept.items()},
            Axis("share of images kept", range=UNIT),
            Axis("accuracy among these", range=(low, 1.0)),
        )
        charts.append(("If the least certain are left out", chart))
    divided = f"The logits are divided by a temperature of {calibration['temperature']:.3g}. " if scaled else ""
    things = "pairs of image and class" if pairs else "images"
    words = (
        f"{divided}On the diagonal, scores are calibrated; below it, they are overconfident, above it, underconfident. "
        f"The area of a point is its number of {things}. With so many, even perfectly calibrated scores would have an "
        f"ECE of about {calibration['after']['ece_by_chance']:.3f}, by chance."
    )
    return section("Calibration", words, charts)


def _reliability(bins: list[Mapping[str, float]], pairs: bool) -> str:
    counts = np.array([b["count"] for b in bins])
    return drawing.chart(
        {"bins": ([b["confidence"] for b in bins], [b["accuracy"] for b in bins])},
        Axis("score" if pairs else "confidence", range=UNIT),
        Axis("share that has the class" if pairs else "share that is correct", range=UNIT),
        scattered=True,
        diagonal=True,
        sizes=counts / counts.sum(),
    )


def predicted_and_true(outcome: Outcome) -> str:
    """A scatter plot of each of a few target values."""
    shown = np.unique(np.linspace(0, len(outcome.files) - 1, MOST_POINTS).astype(int))
    charts = []
    for i, name in enumerate(outcome.class_names[:MOST_CURVES]):
        points = {name: (outcome.targets[shown, i], outcome.scores[shown, i])}
        chart = drawing.chart(points, Axis("true"), Axis("predicted"), scattered=True, diagonal=True, square=True)
        charts.append((name, chart))
    part = f" {len(shown):,} of {len(outcome.files):,} images are drawn." if len(shown) < len(outcome.files) else ""
    return section("Predicted and true", f"On the dashed line, predictions equal the true values.{part}", charts)
