"""The tables of a page: figures by split, confusion, figures by class.

Shape legend: K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xception_jax.evaluation import drawing, markup
from xception_jax.terminal.words import counted

MOST_CELLS = 20  # classes of a confusion matrix with numbers
MOST_PAIRS = 10  # beside it
MOST_ROWS = 25  # of a table that is not scrolled


def by_split(analyses: Sequence[Mapping[str, Any]]) -> str:
    """The figures of splits, side by side."""
    head = "".join(
        f"<th>{markup.name(a['split'])}<br><small>{counted(a['count'], 'image')}</small></th>" for a in analyses
    )
    rows = "".join(
        f'<tr><td class="name">{markup.NAMES[name]}</td>'
        + "".join(f"<td>{markup.figure(a['figures'][name])}</td>" for a in analyses)
        + "</tr>"
        for name in analyses[0]["figures"]
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def confusion(analysis: Mapping[str, Any]) -> str:
    """The confusion matrix, with numbers if there are few classes, and the pairs that are confused most."""
    matrix = np.array(analysis["confusion"])
    names = [entry["name"] for entry in analysis["per_class"]]
    wrong, total = int(matrix.sum() - np.trace(matrix)), int(matrix.sum())
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    if len(names) <= MOST_CELLS:
        drawn, pairs = _cells(matrix, shares, names), _pairs(analysis["confused"][:MOST_PAIRS])
    else:
        label = "confusion matrix: true classes down, predictions across"
        drawn, pairs = drawing.grid(shares, label), _pairs(analysis["confused"])
        drawn += '<p class="muted">The numbers of the classes are those of the table below.</p>'
    return (
        f"<h2>Confusion</h2><p>{wrong:,} of {counted(total, 'image')} {'is' if wrong == 1 else 'are'} "
        "classified wrongly. Rows are true classes, columns predictions; shades are shares of the row.</p>"
        f'<div class="beside"><div class="wide">{drawn}</div>{pairs if wrong else ""}</div>'
    )


def _cells(matrix: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> str:
    titles = [f'<th title="{markup.text(name)}"><span>{markup.name(name)}</span></th>' for name in names]
    rows = "".join(
        f"<tr>{title}{''.join(_cell(int(matrix[i, j]), shares[i, j], i == j) for j in range(len(names)))}</tr>"
        for i, title in enumerate(titles)
    )
    return (
        '<table class="confusion"><thead>'
        f'<tr><th class="axis">true ↓</th><th class="axis" colspan="{len(names)}">predicted →</th></tr>'
        f"<tr><th></th>{''.join(titles)}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell(count: int, share: float, right: bool) -> str:
    if not count:
        return '<td class="none">·</td>'
    shade = 0.12 + 0.88 * share if right else min(1, 0.15 + 1.7 * share)  # mistakes are rarer
    kind = ("right" if right else "wrong") + (" strong" if shade > 0.6 else "")
    return f'<td class="{kind}" style="--v:{shade:.2f}" title="{100 * share:.1f} % of the row">{count:,}</td>'


def _pairs(confused: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td class="name">{markup.name(pair["true"])}</td><td class="name">{markup.name(pair["predicted"])}</td>'
        f"<td>{pair['count']:,}</td><td>{100 * pair['share']:.1f} %</td></tr>"
        for pair in confused
    )
    return (
        '<div class="wide"><h3>Most confused</h3><table><thead><tr><th class="name">true</th>'
        f'<th class="name">predicted</th><th>images</th><th>of class</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def per_class(analysis: Mapping[str, Any]) -> str:
    """The figures of each class or target value, sorted by a click."""
    entries = analysis["per_class"]
    counts = [name for name in ("count", "answered") if name in entries[0]]
    figures = [name for name in entries[0] if name not in ("name", *counts)]
    titles = {"count": "images", "answered": "predicted"} | markup.NAMES
    head = "".join(f'<th><button class="sort">{titles[name]}</button></th>' for name in (*counts, *figures))
    rows = "".join(
        f'<tr><td data-v="{i}">{i}</td><td class="name">{markup.name(entry["name"])}</td>'
        + "".join(f'<td data-v="{entry[name]}">{entry[name]:,}</td>' for name in counts)
        + "".join(_bar(entry[name], name not in markup.UNBOUNDED) for name in figures)
        + "</tr>"
        for i, entry in enumerate(entries, 1)
    )
    what = "target value" if analysis["task"] == "regression" else "class"
    return (
        f'<h2>By {what}</h2><p class="muted screen">Click a title to sort.</p>'
        f'<div class="wide{" tall" if len(entries) > MOST_ROWS else ""}"><table class="full"><thead><tr>'
        f'<th><button class="sort">#</button></th><th class="name">{what}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _bar(figure: Mapping[str, Any], bounded: bool) -> str:
    value = figure["value"]
    if value is None:
        return "<td>&ndash;</td>"
    style = f' class="bar" style="--v:{value:.3f}"' if bounded else ""
    return f'<td{style} data-v="{value}">{markup.figure(figure)}</td>'
