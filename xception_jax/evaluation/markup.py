"""Names, figures and texts as HTML."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "roc_auc": "ROC AUC",
    "macro_roc_auc": "macro ROC AUC",
    "average_precision": "average precision",
    "macro_average_precision": "macro average precision",
    "micro_average_precision": "micro average precision",
    "map_at_100": "MAP@100",
    "precision_at_1": "precision@1",
    "log_loss": "log loss (nats)",
    "ece": "calibration error (ECE)",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
UNBOUNDED = ("log_loss", "ece", "r2", "mae", "rmse", "pearson", "spearman")  # not drawn between 0 and 1


def text(raw: str) -> str:
    return html.escape(raw)


def name(raw: str) -> str:
    """A name that may run from right to left, which must not turn what is around it."""
    return f"<bdi>{text(raw)}</bdi>"


def figure(of: Mapping[str, Any]) -> str:
    """A figure of `analyse` and its interval."""
    return f"{number(of['value'])} <small>{interval(of)}</small>"


def interval(of: Mapping[str, Any]) -> str:
    return f"[{'&ndash;'.join(map(number, of['interval']))}]" if of["interval"] else ""


def number(value: float | None) -> str:
    """Three decimals, or whole if large; a minus sign, not a hyphen; a dash if undefined."""
    if value is None:
        return "&ndash;"
    rounded = round(value, 3) + 0.0  # -0.0001 becomes 0.0, not -0.0
    return (f"{rounded:.3f}" if abs(value) < 100 else f"{value:,.0f}").replace("-", "&minus;")


def listed(things: Iterable[str]) -> str:
    *first, last = map(text, things)
    return f"{', '.join(first)} and {last}" if first else last
