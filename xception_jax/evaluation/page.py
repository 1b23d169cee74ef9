"""Results as one self-contained HTML page: figures, confusion, calibration, curves, mistakes, facts, how to use it."""

import base64
import dataclasses
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xception_jax.evaluation import drawing, markup, page_charts, page_tables
from xception_jax.evaluation.drawing import Axis
from xception_jax.evaluation.outcome import Outcome
from xception_jax.filesystem import atomic
from xception_jax.terminal.words import counted

TEMPLATE = Path(__file__).with_name("page.html")
HEADLINE = {"single_label": "accuracy", "multi_label": "macro_average_precision", "regression": "r2"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A split's outcome, its figures, and what it was used for.

    Attributes:
      outcome: the scores.
      analysis: `analyse(outcome)`.
      chose: what was chosen by this split's labels ("the regularization"); empty: nothing; None: not known.
    """

    outcome: Outcome
    analysis: dict[str, Any]
    chose: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
    """A chart of the page.

    Attributes:
      title: what it shows.
      x, y: the axes.
      series: x and y values by name.
      mark: the x that was chosen, or None.
    """

    title: str
    x: Axis
    y: Axis
    series: drawing.Series
    mark: float | None = None


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image with a wrong answer: texts, the confidence 0..1, and PNG, JPEG or WebP files; heat_map may be None."""

    file: str
    true: str
    predicted: str
    confidence: float
    picture: bytes
    heat_map: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
      title: of the page.
      splits: the one whose figures are the result first: the test split, or, without one, the validation split.
      facts: names and texts: weights, data, sizes, settings, versions, date.
      curves: of training and of choices.
      mistakes: the most confident ones first.
      next_steps: titles, and the lines of shell or Python that use the result.
    """

    title: str
    splits: Sequence[Measured]
    facts: Sequence[tuple[str, str]] = ()
    curves: Sequence[Curve] = ()
    mistakes: Sequence[Mistake] = ()
    next_steps: Sequence[tuple[str, str]] = ()


def write_page(path: Path, report: Report) -> None:
    """Writes the report as one HTML file without references to others, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    page = template.substitute(title=markup.text(report.title), body="\n".join(filter(None, _sections(report))))
    # Names of files may have bytes that are no text.
    atomic.write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _sections(report: Report) -> Iterator[str]:
    """What is asked first comes first."""
    first = report.splits[0]
    outcome, analysis = first.outcome, first.analysis
    yield _headline(report.title, first)
    if len(report.splits) > 1:
        yield _by_split(report.splits)
    if outcome.task == "single_label":
        yield page_tables.confusion(analysis)
    if outcome.task == "regression":
        yield page_charts.predicted_and_true(outcome)
    if outcome.task != "regression" or len(outcome.class_names) > 1:
        yield page_tables.per_class(analysis)
    if outcome.task != "regression":
        if len(outcome.class_names) <= page_charts.MOST_CURVES:
            yield page_charts.ranking(outcome)
        yield page_charts.certainty(analysis)
    if report.curves:
        yield _curves(report.curves)
    if report.mistakes:
        yield _mistakes(report.mistakes, outcome.split)
    if report.next_steps:
        yield _next_steps(report.next_steps)
    if report.facts:
        yield _facts(report.facts)


def _headline(title: str, measured: Measured) -> str:
    analysis, task = measured.analysis, measured.outcome.task
    names = list(analysis["figures"])
    name = HEADLINE[task] if HEADLINE[task] in names else names[0]
    figure, interval, baseline = analysis["figures"][name], analysis["interval"], analysis["baseline"][name]
    groups = interval["of"] == "groups"
    of = f" of {counted(interval['units'], 'group')}" if groups else ""
    classes = counted(analysis["classes"], "target value" if task == "regression" else "class")
    constant = "the mean" if task == "regression" else "the class frequencies"
    tiles = "".join(_tile(n, f, analysis) for n, f in analysis["figures"].items() if n != name)
    grey = "" if task == "regression" else "Grey: the baseline."
    shares = "" if task != "single_label" or groups else "; those of accuracy, recall and precision are Wilson&rsquo;s"
    return "\n".join(
        (
            f"<h1>{markup.name(title)}</h1>",
            f'<p class="headline"><b>{markup.number(figure["value"])}</b>'
            f"<span>{markup.NAMES[name]} <small>{markup.interval(figure)}</small></span></p>",
            f'<p class="lead">Split <b>{markup.name(measured.outcome.split)}</b>: '
            f"{counted(analysis['count'], 'image')}{of}, {classes}. Baseline, "
            f"predicting {constant} of this split for every image: {markup.number(baseline)}.</p>",
            _use(measured),
            f'<div class="tiles">{tiles}</div>',
            f'<p class="muted">In brackets: {100 * interval["confidence"]:.0f} % intervals, from '
            f"{counted(interval['resamples'], 'bootstrap sample')} of the {interval['of']}{shares}. {grey}</p>",
            *(f'<p class="muted">{markup.text(remark)}</p>' for remark in analysis["remarks"]),
        )
    )


def _use(measured: Measured) -> str:
    """What the split whose figures come first was used for."""
    split, chose = markup.name(measured.outcome.split), measured.chose
    if chose is None:
        return ""
    if not chose:
        return f'<p class="sound">Split {split} was used only for evaluation; nothing was chosen by it.</p>'
    return (
        f'<p class="caution">There is no test split. Split {split} was used to choose {markup.listed(chose)}, so its '
        "figures are optimistic. A test split, by which nothing is chosen, would give unbiased ones.</p>"
    )


def _used_for(chose: Sequence[str]) -> str:
    return f"was used to choose {markup.listed(chose)}" if chose else "was used only for evaluation"


def _tile(name: str, figure: dict[str, Any], analysis: dict[str, Any]) -> str:
    value, baseline = figure["value"], analysis["baseline"].get(name)
    inner = f"{markup.NAMES[name]}<b>{markup.number(value)}</b>"
    if figure["interval"]:
        inner += f"<small>{markup.interval(figure)}</small>"
    if name == "ece":
        inner += f"<small>perfectly calibrated: about {analysis['calibration']['after']['ece_by_chance']:.3f}</small>"
    elif value is not None and name not in markup.UNBOUNDED:
        low, high = figure["interval"] or (value, value)
        mark = "" if baseline is None else f'<s style="left:{100 * baseline:.1f}%"></s>'
        inner += (
            f'<div class="strip"><i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>{mark}'
            f'<u style="left:{100 * value:.1f}%"></u></div>'
        )
    elif baseline is not None:
        inner += f"<small>baseline: {markup.number(baseline)}</small>"
    return f'<div class="tile">{inner}</div>'


def _by_split(splits: Sequence[Measured]) -> str:
    used = "".join(
        f"<li>{markup.name(s.outcome.split)} {_used_for(s.chose)}</li>" for s in splits if s.chose is not None
    )
    return f"<h2>By split</h2><ul>{used}</ul>{page_tables.by_split([s.analysis for s in splits])}"


def _curves(curves: Sequence[Curve]) -> str:
    charts = ((c.title, drawing.chart(c.series, c.x, c.y, mark=c.mark)) for c in curves)
    chosen = "A dashed line is what was chosen." if any(c.mark is not None for c in curves) else ""
    return page_charts.section("Training", chosen, charts)


def _mistakes(mistakes: Sequence[Mistake], split: str) -> str:
    cards = "".join(_card(mistake) for mistake in mistakes)
    mapped = any(mistake.heat_map for mistake in mistakes)
    where = " Beside an image: where the network sees the predicted class (Grad-CAM)." if mapped else ""
    words = f"Of split {markup.name(split)}, by confidence; wrong labels are often among them.{where}"
    return f'<h2>Most confident mistakes</h2><p>{words}</p><div class="mistakes">{cards}</div>'


def _card(mistake: Mistake) -> str:
    images = f'<img src="{_data(mistake.picture)}" alt="{markup.text(mistake.file)}">'
    if mistake.heat_map is not None:
        seen = f"where {mistake.predicted} is seen in {mistake.file}"
        images += f'<img src="{_data(mistake.heat_map)}" alt="{markup.text(seen)}">'
    return (
        f'<figure><div class="pair">{images}</div><figcaption>predicted <b>{markup.name(mistake.predicted)}</b> '
        f"({mistake.confidence:.3f}), labelled <b>{markup.name(mistake.true)}</b><br>"
        f'<span class="muted">{markup.name(mistake.file)}</span></figcaption></figure>'
    )


def _next_steps(steps: Sequence[tuple[str, str]]) -> str:
    blocks = (f"<h3>{markup.text(title)}</h3><pre><code>{markup.text(code)}</code></pre>" for title, code in steps)
    return f"<h2>Use it</h2>{''.join(blocks)}"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{markup.text(name)}</th><td>{markup.name(value)}</td></tr>" for name, value in facts)
    return f'<h2>Facts</h2><table class="facts">{rows}</table>'


def _data(picture: bytes) -> str:
    """A picture as an address that holds it."""
    kinds = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"RIFF": "webp"}
    kind = next((kind for start, kind in kinds.items() if picture.startswith(start)), None)
    assert kind, f"neither PNG nor JPEG nor WebP: {picture[:8]!r}"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
