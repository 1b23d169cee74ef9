"""Charts as SVG for a page: lines, points and axes, in the page's own colours (`page.html`), light or dark."""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 44  # margins
COLOURS = 8  # of series, .s0 to .s7 in the page
FEW = 40  # points, up to which each has a dot
TICKS = 5
LEVELS = 10  # shades of a grid

Series = Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: its label, whether it is logarithmic, and its range, None: that of the values."""

    label: str
    log: bool = False
    range: tuple[float, float] | None = None


def chart(
    series: Series,
    x: Axis,
    y: Axis,
    *,
    scattered: bool = False,
    diagonal: bool = False,
    square: bool = False,
    mark: float | None = None,
    sizes: Sequence[float] | None = None,
) -> str:
    """Lines, or points if `scattered`, by name. Values that are not finite, or not positive on a logarithm, are gaps.

    Args:
      series: x and y values, of equal length, by name; several are explained in a legend.
      x, y: the axes.
      scattered: points without lines.
      diagonal: draws the line y = x.
      square: both axes have the same range and length.
      mark: an x at which a line is drawn.
      sizes: of the points, 0..1 by area; None: all equal.
    """
    points = {name: _finite(values, x, y) for name, values in series.items()}
    marked = () if mark is None else (mark,)
    xs, ys = (np.concatenate([p[i] for p in points.values()]) for i in (0, 1))
    height = WIDTH - LEFT - RIGHT + TOP + BOTTOM if square else HEIGHT
    across = _Scale(x, np.concatenate([xs, marked, ys if square else ()]), LEFT, WIDTH - RIGHT)
    up = _Scale(y, np.concatenate([ys, xs if square else ()]), height - BOTTOM, TOP)
    parts = [_axes(across, up)]
    if diagonal:
        ends = max(across.low, up.low), min(across.high, up.high)
        (x0, x1), (y0, y1) = across(np.array(ends)), up(np.array(ends))
        parts.append(f'<path class="dashed" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>')
    if mark is not None and math.isfinite(mark) and (mark > 0 or not x.log):
        at = across(np.array([mark]))[0]
        parts.append(f'<path class="dashed" d="M{at:.1f} {TOP}V{up.start}"/>')
    for i, (xs, ys) in enumerate(points.values()):
        px, py = across(xs), up(ys)
        style = f"s{i % COLOURS}"
        if not scattered:
            parts.append(f'<path class="line {style}" d="{_path(px, py)}"/>')
        if scattered or len(px) <= FEW:
            radius = np.full(len(px), 2.5) if sizes is None else 2.5 + 9 * np.sqrt(np.asarray(sizes))
            parts.append(f'<g class="dot {style}">{_dots(px, py, radius)}</g>')
    label = html.escape(f"{y.label} by {x.label}")
    return _svg(WIDTH, height, "".join(parts), label) + (_legend(list(series)) if len(series) > 1 else "")


def grid(shares: np.ndarray, labels: str) -> str:
    """A confusion matrix of many classes, [K, K], each row's shares 0..1: one square a cell, numbers at every tenth."""
    k = len(shares)
    parts = [f'<rect class="frame" x="0" y="0" width="{k}" height="{k}"/>']
    rows, places = np.nonzero(shares)
    levels = np.ceil(shares[rows, places] * LEVELS).astype(int)
    for right in (True, False):
        for level in range(1, LEVELS + 1):
            chosen = (levels == level) & ((rows == places) == right)
            cells = "".join(f"M{j} {i}h1v1h-1z" for i, j in zip(rows[chosen], places[chosen], strict=True))
            if cells:
                # A single image among a hundred must be seen.
                opacity = 0.25 + 0.75 * level / LEVELS
                parts.append(f'<path class="{"right" if right else "wrong"}" opacity="{opacity:.2f}" d="{cells}"/>')
    size = k / 45
    every = 10 ** max(1, math.ceil(math.log10(k / 20)))
    for i in range(0, k, every):
        parts.append(f'<text x="{-size / 2:.2f}" y="{i + 0.5:.2f}" dy=".35em" text-anchor="end">{i + 1}</text>')
        parts.append(f'<text x="{i + 0.5:.2f}" y="{-size / 2:.2f}" text-anchor="middle">{i + 1}</text>')
    margin = 3 * size
    box = f"{-margin:.2f} {-margin:.2f} {k + 1.2 * margin:.2f} {k + 1.2 * margin:.2f}"
    inner = f'<g font-size="{size:.2f}" stroke-width="{k / 800:.3f}">{"".join(parts)}</g>'
    return f'<svg class="grid" viewBox="{box}" role="img" aria-label="{html.escape(labels)}">{inner}</svg>'


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Round numbers in a range."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        few = high < 101 * low
        every = 1 if few else math.ceil(len(decades) / (TICKS + 2))
        numbers = [m * 10.0**e for e in decades[::every] for m in ((1, 2, 5) if few else (1,))]
        found = [x for x in numbers if low * 0.999 <= x <= high * 1.001]
        if len(found) > 1:
            return found
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


class _Scale:
    """From values of an axis to pixels between `start` and `end`."""

    def __init__(self, axis: Axis, values: np.ndarray, start: float, end: float):
        self.axis, self.start, self.end = axis, start, end
        values = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
        low, high = axis.range or ((values.min(), values.max()) if len(values) else (0.1, 1.0))
        if low == high:
            low, high = (low / 2, high * 2) if axis.log else (low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5)
        elif not axis.range and not axis.log:
            low, high = low - (high - low) / 30, high + (high - low) / 30
        self.low, self.high = float(low), float(high)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        low, high = self.low, self.high
        if self.axis.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts."""
        values = ticks(self.low, self.high, self.axis.log)
        return [(at, _short(value)) for value, at in zip(values, self(np.array(values)), strict=True)]


def _short(value: float) -> str:
    """A number in a few letters: 0.25, 1,500, 20k, 3M, 1e-05."""
    if 1e6 <= abs(value) < 1e9:
        return f"{value / 1e6:.4g}M"
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1e3:.4g}k"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e4 else f"{value:.4g}"


def _finite(values: tuple[npt.ArrayLike, npt.ArrayLike], x: Axis, y: Axis) -> tuple[np.ndarray, np.ndarray]:
    """x and y as float64, of which what cannot be drawn is NaN."""
    xs, ys = (np.asarray(column, np.float64) for column in values)  # None is NaN
    valid = np.isfinite(xs) & np.isfinite(ys) & ((xs > 0) | (not x.log)) & ((ys > 0) | (not y.log))
    return np.where(valid, xs, np.nan), np.where(valid, ys, np.nan)


def _axes(across: _Scale, up: _Scale) -> str:
    bottom, right = up.start, across.end
    lines = "".join(f"M{LEFT} {at:.1f}H{right}" for at, _ in up.ticks())
    lines += "".join(f"M{at:.1f} {TOP}V{bottom}" for at, _ in across.ticks())
    parts = [f'<path class="rule" d="{lines}"/>']
    parts += [
        f'<text x="{LEFT - 7}" y="{at:.1f}" dy=".35em" text-anchor="end">{name}</text>' for at, name in up.ticks()
    ]
    parts += [f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{name}</text>' for at, name in across.ticks()]
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="{(LEFT + right) / 2}" y="{bottom + BOTTOM - 8}" text-anchor="middle">'
        f"{html.escape(across.axis.label)}</text>"
        f'<text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(up.axis.label)}</text>"
    )
    return "".join(parts)


def _path(px: np.ndarray, py: np.ndarray) -> str:
    """Lines between neighbours; NaN is a gap."""
    parts, pen = [], "M"
    for x, y in zip(px, py, strict=True):
        if math.isfinite(x):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _dots(px: np.ndarray, py: np.ndarray, radius: np.ndarray) -> str:
    points = zip(px, py, radius, strict=True)
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in points if math.isfinite(x))


def _legend(names: list[str]) -> str:
    items = (
        f'<span><i class="s{i % COLOURS}"></i><bdi>{html.escape(name)}</bdi></span>' for i, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(items)}</p>'


def _svg(width: float, height: float, inner: str, label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{inner}</svg>'
