"""Plots a run's curves: `curves.png` in its work directory."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import needs
from xception_jax.filesystem import atomic, paths
from xception_jax.tasks.task import FIGURES, SINGLE_LABEL, TASKS, Task
from xception_jax.workdir import small_files
from xception_jax.workdir.log import read_log

LINES = ("-", "--")  # of the task's figures
TRAIN, EVALUATION = "#9aa5b1", ("#1f6fb4", "#d9822b", "#2e8b57")  # colours: training, evaluated splits in order
LOG_SCALE_FROM = 20  # losses that span a larger factor get a logarithmic scale


def plot_curves(workdir: Path, title: str | None = None) -> Path:
    """Plots loss, the task's figures and learning rate over the steps in log.jsonl.

    Args:
      workdir: the run's folder.
      title: of the figure; None: the network, its data and its last figure.

    Returns:
      The figure's path.

    Raises:
      UserError: there is no log, or it is damaged, or matplotlib is not installed.
    """
    records, settings = read_log(workdir), _settings(workdir)
    task = TASKS[settings.get("task") or SINGLE_LABEL.name]
    train = [r for r in records if r["kind"] == "train"]
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    figure = new_figure((15, 4.5))
    figure.suptitle(_title(workdir.name, settings, task, evaluations) if title is None else title, fontsize=13)
    loss, figures, rate = figure.subplots(1, 3)
    _curve(loss, train, "loss", label="train", color=TRAIN)
    for name in set(task.of_batches) & set(task.shown):
        _curve(figures, train, name, label=f"train {FIGURES[name].title}", color=TRAIN)
    for split, color in zip(dict.fromkeys(r["split"] for r in evaluations), EVALUATION, strict=False):
        of_split = [r for r in evaluations if r["split"] == split]
        _curve(loss, of_split, "loss", label=split, color=color, marker="o")
        for name, line in zip(task.shown, LINES, strict=False):
            _curve(
                figures, of_split, name, label=f"{split} {FIGURES[name].title}", color=color, marker="o", linestyle=line
            )
    _curve(rate, train, "learning_rate", color=EVALUATION[0])
    for axes, title in ((loss, f"loss ({task.loss_unit})"), (figures, task.panel), (rate, "learning rate")):
        _finish(axes, title)
    if all(FIGURES[name].share for name in task.shown):
        figures.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    losses = [r["loss"] for r in train + evaluations if r.get("loss")]
    if losses and max(losses) > LOG_SCALE_FROM * min(losses):
        loss.set_yscale("log")
    path = workdir / "curves.png"
    save(figure, path)
    return path


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, complete or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic.write_atomically(path, buffer.getvalue())


def new_figure(figsize: tuple[float, float]) -> Any:
    """An empty figure of so many inches.

    Raises:
      UserError: matplotlib is not installed.
    """
    # Runs must not write into ~/.config.
    if (cache := paths.cache()) and paths.writable(cache):
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))
    with needs("train", "drawing curves"):
        from matplotlib.figure import Figure

    # Not pyplot: a separate figure needs no display and leaves no global state.
    return Figure(figsize=figsize, layout="constrained")


def _settings(workdir: Path) -> dict[str, Any]:
    """The run's config, empty if it is not there."""
    path = workdir / "config.json"
    return small_files.read_json(path) if path.exists() else {}


def _title(name: str, settings: dict[str, Any], task: Task, evaluations: list[dict[str, Any]]) -> str:
    """The network, its data, and the last of the task's first figure."""
    if settings:
        name = f"{settings['model']['name']} on {settings['data']['name']}"
    figure = task.figures[0]
    if not evaluations or evaluations[-1].get(figure) is None:
        return name
    last = evaluations[-1]
    return f"{name}: {FIGURES[figure].said(last[figure])} on {last['split']} after {last['step']:,} steps"


def _curve(axes: Any, records: list[dict[str, Any]], field: str, **style: Any) -> None:
    """Plots a field of the records that have it; None (not finite) leaves a gap."""
    points = [(r["step"], r[field]) for r in records if field in r]
    if points:
        steps, values = np.array(points, dtype=np.float64).T
        axes.plot(steps, values, markersize=3, linewidth=1.6, **style)


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)
