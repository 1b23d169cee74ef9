"""A benchmark's results: tables for people, JSON for programs."""

import datetime
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from xception_jax.terminal import console

Row = dict[str, Any]
SPREAD = ("median", "low", "high")
LEFT = ("", "side", "operator")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "opencv-python-headless", "grain")


def record(rows: list[Row], machine: dict[str, Any], settings: dict[str, Any], command: str) -> dict[str, Any]:
    """The complete record, for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "settings": settings,
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform(), **machine},
        "versions": versions(),
        "results": rows,
    }


def versions() -> dict[str, str]:
    """Versions of Python and the installed libraries."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def show(rows: list[Row], machine: dict[str, Any]) -> None:
    """Prints a table for each subject, and lists what was skipped."""
    out = console.console()
    out.print(f"{processor()}, {os.cpu_count()} cores; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    if machine:
        out.print(
            f"{machine['num_devices']} x {machine['device']}: a copy moves "
            f"{amount(machine['bytes_per_second']['median'])}B/s, a matrix product computes "
            f"{amount(machine['flops_per_second']['median'])}FLOP/s"
        )
    for what in dict.fromkeys(row["what"] for row in rows):
        lines = [line for row in rows if row["what"] == what for line in _lines(row, machine)]
        out.print(_table(what, lines))
    for row in rows:
        for side, figures in row["sides"].items():
            if "left_out" in figures:
                out.print(f"left out: {row['what']} {row['name']}, {side}: {figures['left_out']}")


def _table(title: str, lines: list[dict[str, str]]) -> Table:
    """A table of lines; each line maps column names to text."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    table = console.table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    for line in lines:
        table.add_row(*(line.get(column, "") for column in columns))
    return table


def _lines(row: Row, machine: dict[str, Any]) -> list[dict[str, str]]:
    """A row as lines of the table: one line per side, or a single line for operators."""
    measured = {side: figures for side, figures in row["sides"].items() if "ms" in figures}
    if row["what"] != "operators":
        return [{"": row["name"], "side": side, **_cells(figures, machine)} for side, figures in measured.items()]
    line = {"operator": row["name"], "": row["direction"], "uses": str(row["count"])}
    for side, figures in measured.items():
        line[f"{side}, ms"] = with_range(figures["ms"])
        if side == "ours":
            line["of the ceiling"] = f"{100 * share_of_ceiling(figures, machine):.0f} %"
        else:
            line[f"{side} / ours"] = with_range(figures["ratio"])
    return [line]


def share_of_ceiling(figures: dict[str, Any], machine: dict[str, Any]) -> float:
    """How close the operator is to the device's limit: memory traffic or arithmetic, whichever is the bottleneck."""
    seconds = figures["ms"]["median"] / 1000
    return max(figures[unit] / seconds / machine[f"{unit}_per_second"]["median"] for unit in ("bytes", "flops"))


def _cells(figures: dict[str, Any], machine: dict[str, Any]) -> dict[str, str]:
    """The table's cells for a side's figures."""
    cells = {}
    seconds = figures["ms"]["median"] / 1000
    if "images_per_second" in figures:
        cells["images/s"] = with_range(figures["images_per_second"])
    cells["ms"] = with_range(figures["ms"])
    for name, unit in (("flops", "FLOP/s"), ("bytes", "B/s")):
        if figures.get(name):
            speed = figures[name] / seconds
            cells[unit] = f"{amount(speed)} ({100 * speed / machine[f'{name}_per_second']['median']:.0f} %)"
    if "bytes" in (memory := figures.get("memory", {})):
        cells["peak memory"] = f"{amount(memory['bytes'])}B ({memory['kind']})"
    if figures.get("temporary_bytes") is not None:
        cells["temporary"] = f"{amount(figures['temporary_bytes'])}B"
    for name in figures:
        if name.endswith("_s") and isinstance(figures[name], float):
            cells[name.removesuffix("_s") + " s"] = f"{figures[name]:.2f}"
    if "ratio" in figures:
        cells["/ ours"] = with_range(figures["ratio"])
    return cells


def with_range(values: dict[str, float]) -> str:
    """Median (minimum to maximum), three digits each."""
    median, low, high = (f"{round(values[key]):,}" if values[key] >= 100 else f"{values[key]:.3g}" for key in SPREAD)
    return f"{median} ({low} to {high})" if low != high else median


def amount(value: float) -> str:
    """A number with three digits and a unit prefix: 1.23 G."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def failed(rows: Iterable[Row]) -> bool:
    """Whether any of our own measurements was skipped."""
    return any("left_out" in row["sides"]["ours"] for row in rows)
