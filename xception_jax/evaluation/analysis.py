"""The figures of an outcome, with intervals.

Shape legend: N images, K classes or target values, R resamples, M figures.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import special

from xception_jax.evaluation import statistics, weighted
from xception_jax.evaluation.outcome import Outcome

CONFIDENCE = 0.95
RESAMPLES = 1000
BUDGET = 2_000_000_000  # images times classes times resamples, of larger splits fewer: some seconds
FEWEST = 100  # resamples
CHUNK = 1 << 20  # weights of a chunk of resamples, which the processor's cache holds
BINS = 15  # of the calibration error
MOST_CONFUSED = 20
POINTS = 200  # of a curve
LEAST_KEPT = 0.05  # of the images; the accuracy of fewer says nothing
TINY = 1e-6  # the frequency that a class without images is given
FEW = 20  # images or groups, of which intervals are rough
MOST_NAMED = 5

# By name: the figures [R] of a split, and those of each class or target value [K, R].
Figures = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def analyse(outcome: Outcome, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The figures of an outcome, for JSON: each {"value", "interval"}, None where undefined.

    Intervals are of 95 %: percentiles of resampled images, or of resampled groups where there are groups, because
    images of a group are not independent. Shares of independent images (accuracy, recall, precision) have Wilson's.
    There is none where all resamples agree, as for a perfect score: then they say nothing of the uncertainty. With few
    images or positives, bootstrap intervals are somewhat too narrow.

    Args:
      outcome: of one split.
      seed: of the resampling.
      resamples: their number; fewer, and at least 100, for very large splits.

    Returns:
      task, split, count, classes: what was measured.
      interval: confidence, resamples, what was resampled ("images" or "groups") and how many of these there are.
      figures: of the whole split. Means of classes are over those that have images.
        single_label: accuracy, balanced_accuracy, macro_f1, roc_auc and average_precision (two classes: of the second;
        otherwise each against the rest), log_loss (nats), ece.
        multi_label: macro_average_precision, micro_average_precision, map_at_100 (if classes have weights also
        weighted_map_at_100), precision_at_1 (of images with labels, the share whose first class is one: ReaL's
        accuracy), macro_roc_auc, macro_f1, micro_f1 (of scores of at least 0.5), log_loss and ece of the pairs of image
        and class. Pairs of which nothing is known are in none of them.
        regression: r2, mae, rmse, pearson, spearman; with several target values the means over these, of mae and rmse
          whatever the values' units.
      baseline: the figures of the same scores for every image: the split's own frequencies, or means.
      per_class: of each class, or target value, its name and figures; of classes also count and answered.
      calibration: temperature; before and after it: ece; ece_by_chance, about what calibrated scores would have with
        as few images (this is why ece has no interval); log_loss; bins with images: low, high, count, confidence (their
        mean score) and accuracy (the share that is correct; multi_label: the share of pairs that are positive).
      confusion: single_label: int [K][K], rows are the true classes. confused: the pairs most often confused.
      kept: single_label: lists of equal length: share, and accuracy of this share of the images, the most certain by
        confidence, and by deviation where it is known.
      remarks: sentences on what is undefined, left out, or to be read with care.
    """
    groups = None if outcome.group is None else np.unique(outcome.group, return_inverse=True)[1]
    units = len(outcome.files) if groups is None else int(groups.max()) + 1
    resamples = max(FEWEST, min(resamples, BUDGET // outcome.logits.size))
    figures = _of_task(outcome)
    totals, classes = figures(np.ones((len(outcome.files), 1)))
    chunks = [figures(w) for w in _resample(units, groups, resamples, seed)]
    resampled = {name: np.concatenate([chunk[0][name] for chunk in chunks]) for name in totals}
    of_split = {name: _figure(value[0], resampled[name]) for name, value in totals.items()}
    of_classes = {
        name: [_figure(v[0], r) for v, r in zip(values, np.hstack([c[1][name] for c in chunks]), strict=True)]
        for name, values in classes.items()
    }
    result: dict[str, Any] = {
        "task": outcome.task,
        "split": outcome.split,
        "count": len(outcome.files),
        "classes": len(outcome.class_names),
        "interval": {
            "confidence": CONFIDENCE,
            "resamples": resamples,
            "of": "images" if groups is None else "groups",
            "units": units,
        },
        "figures": of_split,
        "baseline": _baseline(outcome),
        "per_class": [
            {"name": name, **{figure: values[i] for figure, values in of_classes.items()}}
            for i, name in enumerate(outcome.class_names)
        ],
    }
    if outcome.task != "regression":
        _count(result, outcome)
        result["calibration"] = calibration(outcome)
        of_split["ece"] = {"value": result["calibration"]["after"]["ece"], "interval": None}
    if outcome.task == "single_label":
        result |= {"confusion": _confusion(outcome).tolist(), "confused": _confused(outcome), "kept": _kept(outcome)}
    return result | {"remarks": _remarks(result, outcome)}


def figures_of(outcome: Outcome) -> dict[str, float]:
    """The figures of a split, as of `analyse` but without intervals; NaN where undefined."""
    return {name: float(value[0]) for name, value in _of_task(outcome)(np.ones((len(outcome.files), 1)))[0].items()}


def differences(a: Outcome, b: Outcome, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, dict[str, Any]]:
    """Each figure of B minus that of A, of the same images, with the interval of resampled images: as in `analyse`."""
    of_a, of_b = _of_task(a), _of_task(b)
    resamples = max(FEWEST, min(resamples, BUDGET // a.logits.size))

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        left, right = of_a(weights)[0], of_b(weights)[0]
        return {name: right[name] - left[name] for name in left.keys() & right.keys()}

    whole = difference(np.ones((len(a.files), 1)))
    chunks = [difference(w) for w in _resample(len(a.files), None, resamples, seed)]
    drawn = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in whole}
    return {name: _figure(whole[name][0], drawn[name], bounds=(-np.inf, np.inf)) for name in sorted(whole)}


def of_images(outcome: Outcome) -> np.ndarray:
    """What a paired test of two networks compares: the task's figure of each image, float64 [N], NaN if undefined.

    Several labels: average precision at 100. Numbers: absolute error, the mean over the numbers.
    """
    if outcome.task == "regression":
        return np.abs(outcome.scores - outcome.targets).mean(axis=1)
    return average_precisions(outcome.scores, outcome.targets)


def of_classes(outcome: Outcome) -> dict[str, np.ndarray]:
    """The figures of each class, or target value, [K]; NaN where undefined."""
    return {name: values[:, 0] for name, values in _of_task(outcome)(np.ones((len(outcome.files), 1)))[1].items()}


def average_precisions(
    scores: np.ndarray, targets: np.ndarray, k: int = 100, weights: np.ndarray | None = None
) -> np.ndarray:
    """Average precision of the k highest scores of each image, whose mean is the MAP of the paper, section 4.1.

    An image's average precision is the sum, over its labels among the k highest scores, of the class's weight times the
    precision down to it, divided by the same sum if its labels came first.

    Args:
      scores: [N, K].
      targets: [N, K], 0 or 1, or NaN: unknown, which is as if there were no such class.
      k: number of predictions.
      weights: [K], of the classes, 0 or more (the paper: how common a class is among users' images); None: all equal.

    Returns:
      float64 [N], 0..1; NaN of an image without labels.
    """
    scores, targets = np.where(np.isnan(targets), -np.inf, scores), np.nan_to_num(np.asarray(targets, np.float64))
    gains = targets * (1.0 if weights is None else np.asarray(weights, np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = np.take_along_axis(targets, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    best = -np.sort(-gains, axis=1)[:, :k].sum(axis=1)
    return weighted.ratio((np.take_along_axis(gains, order, axis=1) * precision).sum(axis=1), best)


def _of_task(outcome: Outcome) -> Callable[[np.ndarray], Figures]:
    """The function from weights [N, R] to figures."""
    of_task = {"single_label": _single_label, "multi_label": _multi_label, "regression": _regression}
    return of_task[outcome.task](outcome)


def _single_label(outcome: Outcome) -> Callable[[np.ndarray], Figures]:
    scores, losses = outcome.scores, outcome.losses
    targets, predicted = (_one_hot(x, scores.shape[1]) for x in (outcome.targets, outcome.predicted))
    correct, binary = outcome.targets == outcome.predicted, scores.shape[1] == 2
    count = weighted.Counter(targets, predicted)
    rankings = [weighted.Ranking(s, t) for s, t in zip(scores.T, targets.T, strict=True)]

    def figures(weights: np.ndarray) -> Figures:
        counts = count(weights)
        area, precision = (np.stack(figure) for figure in zip(*(r(weights) for r in rankings), strict=True))
        return {
            "accuracy": weighted.mean(correct, weights),
            "balanced_accuracy": weighted.mean_of_classes(counts.recall, counts),
            "macro_f1": weighted.mean_of_classes(counts.f1, counts),
            "roc_auc": area[1] if binary else weighted.mean_of_classes(area, counts),
            "average_precision": precision[1] if binary else weighted.mean_of_classes(precision, counts),
            "log_loss": weighted.mean(losses, weights),
        }, _of_classes(counts, area, precision)

    return figures


def _multi_label(outcome: Outcome) -> Callable[[np.ndarray], Figures]:
    scores, losses, targets, known = outcome.scores, outcome.losses, outcome.targets == 1, outcome.known
    rankings = [
        weighted.Ranking(s[of], t[of], np.flatnonzero(of), len(scores))
        for s, t, of in zip(scores.T, targets.T, known.T, strict=True)
    ]
    of_pairs = weighted.Ranking(scores[known], targets[known], np.nonzero(known)[0], len(scores))
    count = weighted.Counter(targets, outcome.predicted & known)
    precisions = {
        "map_at_100": average_precisions(scores, outcome.targets),
        "precision_at_1": average_precisions(scores, outcome.targets, k=1),
    }
    if outcome.class_weights is not None:
        weights_of_classes = outcome.class_weights
        precisions["weighted_map_at_100"] = average_precisions(scores, outcome.targets, weights=weights_of_classes)

    def figures(weights: np.ndarray) -> Figures:
        counts = count(weights)
        area, precision = (np.stack(figure) for figure in zip(*(r(weights) for r in rankings), strict=True))
        return {
            "macro_average_precision": weighted.mean_of_classes(precision, counts),
            "micro_average_precision": of_pairs(weights)[1],
            **{name: weighted.mean_of_known(values, weights) for name, values in precisions.items()},
            "macro_roc_auc": weighted.mean_of_classes(area, counts),
            "macro_f1": weighted.mean_of_classes(counts.f1, counts),
            "micro_f1": counts.total().f1[0],
            "log_loss": weighted.mean(losses, weights),
        }, _of_classes(counts, area, precision)

    return figures


def _of_classes(counts: weighted.Counts, area: np.ndarray, precision: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": np.where(counts.positive > 0, counts.f1, np.nan),
        "roc_auc": area,
        "average_precision": precision,
    }


def _regression(outcome: Outcome) -> Callable[[np.ndarray], Figures]:
    targets, values = outcome.targets.astype(np.float64), outcome.scores
    errors = values - targets

    def figures(weights: np.ndarray) -> Figures:
        weights = weights.astype(np.float64)
        centred = (targets - targets.mean(axis=0)).T
        spread = weighted.mean(centred**2, weights) - weighted.mean(centred, weights) ** 2
        squares = weighted.mean(errors.T**2, weights)
        pairs = list(zip(targets.T, values.T, strict=True))
        each = {
            "r2": 1 - weighted.ratio(squares, np.where(np.ptp(targets, axis=0)[:, None] > 0, spread, 0)),
            "mae": weighted.mean(np.abs(errors.T), weights),
            "rmse": np.sqrt(squares),
            "pearson": np.stack([weighted.pearson(t, v, weights) for t, v in pairs]),
            "spearman": np.stack([weighted.spearman(t, v, weights) for t, v in pairs]),
        }
        return {name: figure.mean(axis=0) for name, figure in each.items()}, each

    return figures


def _resample(units: int, groups: np.ndarray | None, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is in each resample, float32 [N, R], in chunks of resamples."""
    rng = np.random.default_rng(seed)
    n = units if groups is None else len(groups)
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(units, size=(units, size)) * size + np.arange(size)
        times = np.bincount(drawn.ravel(), minlength=units * size).reshape(units, size).astype(np.float32)
        yield times if groups is None else times[groups]


def _figure(value: float, resampled: np.ndarray, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """A figure and the interval of its resamples, of which undefined ones are left out; None: bounds as they look.

    Images that are drawn twice are tied, by which average precision is higher in resamples than in what they are of.
    The percentiles are moved by this difference; for other figures it is near 0.
    """
    resampled = resampled[np.isfinite(resampled)].astype(np.float64)
    if not math.isfinite(value) or not len(resampled) or np.ptp(resampled) == 0:
        return {"value": _or_none(value), "interval": None}
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail)) + value - resampled.mean()
    if bounds is None:
        bounds = 0.0 if resampled.min() >= 0 else -np.inf, 1.0 if resampled.max() <= 1 else np.inf
    low, high = max(low, bounds[0]), min(high, bounds[1])
    return {"value": float(value), "interval": [float(low), float(high)]}


def _baseline(outcome: Outcome) -> dict[str, float | None]:
    if outcome.task == "regression":
        logits = outcome.targets.mean(axis=0)
    else:
        targets = outcome.targets
        if outcome.task == "single_label":
            targets = _one_hot(targets, len(outcome.class_names))
        known = ~np.isnan(targets)
        share = np.where(known, targets, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        share = np.clip(share, TINY, 1 - TINY)
        logits = np.log(share) if outcome.task == "single_label" else special.logit(share)
    constant = dataclasses.replace(outcome, logits=np.tile(logits, (len(outcome.files), 1)), temperature=1.0)
    figures, _ = _of_task(constant)(np.ones((len(outcome.files), 1)))
    return {name: _or_none(figure[0]) for name, figure in figures.items()}


def _count(result: dict[str, Any], outcome: Outcome) -> None:
    """Adds each class's number of images and answers, and Wilson's intervals of shares of independent images."""
    k = len(outcome.class_names)
    if outcome.task == "single_label":
        targets, predicted = _one_hot(outcome.targets, k), _one_hot(outcome.predicted, k)
    else:
        targets, predicted = outcome.targets == 1, outcome.predicted & outcome.known
    parts = (part.sum(axis=0).tolist() for part in (targets, predicted, targets & predicted))
    for entry, count, answered, correct in zip(result["per_class"], *parts, strict=True):
        entry |= {"count": count, "answered": answered}
        if outcome.group is None:
            for name, whole in (("recall", count), ("precision", answered)):
                if whole:
                    entry[name]["interval"] = list(statistics.wilson_interval(correct, whole, CONFIDENCE))
    if outcome.group is None and outcome.task == "single_label":
        correct = int((outcome.targets == outcome.predicted).sum())
        interval = statistics.wilson_interval(correct, len(outcome.files), CONFIDENCE)
        result["figures"]["accuracy"]["interval"] = list(interval)


def calibration(outcome: Outcome) -> dict[str, Any]:
    """How well the scores of classes are probabilities, before and after the temperature: as in `analyse`."""

    def measured(outcome: Outcome) -> dict[str, Any]:
        scores = outcome.scores
        if outcome.task == "single_label":
            scores, correct = scores.max(axis=1), outcome.targets == outcome.predicted
        else:
            scores, correct = scores[outcome.known], outcome.targets[outcome.known] == 1
        edges = np.linspace(0, 1, BINS + 1)
        index = np.digitize(scores, edges[1:-1], right=True)
        count, score, right, variance = (
            np.bincount(index, weights, minlength=BINS) for weights in (None, scores, correct, scores * (1 - scores))
        )
        bins = zip(edges[:-1], edges[1:], count, score, right, strict=True)
        return {
            "ece": statistics.expected_calibration_error(scores, correct, BINS),
            # The mean of |x| of a normal x of mean 0: the gap of a bin whose scores are right.
            "ece_by_chance": float(np.sqrt(2 / np.pi * variance).sum() / len(scores)),
            "log_loss": float(outcome.losses.mean()),
            "bins": [
                {"low": low, "high": high, "count": int(n), "confidence": confidence / n, "accuracy": hits / n}
                for low, high, n, confidence, hits in bins
                if n
            ],
        }

    raw = dataclasses.replace(outcome, temperature=1.0)
    return {"temperature": outcome.temperature, "before": measured(raw), "after": measured(outcome)}


def _confusion(outcome: Outcome) -> np.ndarray:
    """int [K, K], number of images by true and predicted class."""
    k = len(outcome.class_names)
    return np.bincount(outcome.targets * k + outcome.predicted, minlength=k * k).reshape(k, k)


def _confused(outcome: Outcome) -> list[dict[str, Any]]:
    matrix = _confusion(outcome)
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    names = outcome.class_names
    return [
        {
            "true": names[i],
            "predicted": names[j],
            "count": int(wrong[i, j]),
            "share": float(wrong[i, j] / matrix[i].sum()),
        }
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]


def _kept(outcome: Outcome) -> dict[str, Any]:
    correct = outcome.targets == outcome.predicted
    numbers = np.unique(np.linspace(max(1, LEAST_KEPT * len(correct)), len(correct), POINTS).round().astype(int))
    certainty = {"confidence": outcome.scores.max(axis=1)}
    if outcome.deviation is not None:
        certainty["deviation"] = -outcome.deviation[np.arange(len(correct)), outcome.predicted]
    return {"share": (numbers / len(correct)).tolist()} | {
        name: (np.cumsum(correct[np.argsort(-certain, kind="stable")])[numbers - 1] / numbers).tolist()
        for name, certain in certainty.items()
    }


def _remarks(result: dict[str, Any], outcome: Outcome) -> list[str]:
    """Sentences on what is undefined, left out, or to be read with care."""
    remarks, interval = [], result["interval"]
    empty = [entry["name"] for entry in result["per_class"] if entry.get("count") == 0]
    if empty:
        some = ", ".join(empty[:MOST_NAMED]) + (", ..." if len(empty) > MOST_NAMED else "")
        remarks.append(f"{len(empty)} of {result['classes']} classes without images ({some}): left out of means.")
    if outcome.task == "single_label" and result["classes"] == 2:
        remarks.append(f'ROC AUC and average precision are of the class "{outcome.class_names[1]}".')
    if outcome.task == "regression" and result["classes"] > 1:
        remarks.append("R² and the correlations of the split are means of those of its target values.")
    if outcome.task == "multi_label":
        if not outcome.known.all():
            remarks.append(f"Of {(~outcome.known).mean():.1%} of the pairs of image and class nothing is known.")
        unlabelled = int((~(outcome.targets > 0).any(axis=1)).sum())
        if unlabelled:
            remarks.append(f"{unlabelled} of {result['count']} images have no label; MAP@100 leaves them out.")
    if interval["of"] == "groups":
        remarks.append(f"Intervals resample {interval['units']} groups, as the images of a group are not independent.")
    if interval["units"] < FEW:
        remarks.append(f"With {interval['units']} {interval['of']}, intervals are rough.")
    return remarks


def _one_hot(labels: np.ndarray, k: int) -> np.ndarray:
    return labels[:, None] == np.arange(k)


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
