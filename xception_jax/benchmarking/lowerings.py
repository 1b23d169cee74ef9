"""The table of lowerings, `xception_jax/ops/lowerings.json`, updated from a benchmark of operators."""

import collections
import json
from pathlib import Path
from typing import Any

from xception_jax.benchmarking.sides.operators import in_training
from xception_jax.filesystem import atomic

Row = dict[str, Any]


def update(path: Path, record: dict[str, Any]) -> None:
    """Writes measurements into the table, replacing its entry for the same platform and network.

    Args:
      path: of the table; created if missing.
      record: of a benchmark, as returned by `results.record`, with the rows of all operators of a network.
    """
    table = json.loads(path.read_text()) if path.exists() else {}
    rows = [row for row in record["results"] if row["what"] == "operators"]
    measured = {key: record[key] for key in ("date", "command", "hardware", "versions")}
    networks = table.setdefault(record["hardware"]["platform"], {})
    networks[record["settings"]["model"]] = {"measured": measured, "milliseconds": milliseconds(rows)}
    atomic.write_atomically(path, json.dumps(table, indent=2, sort_keys=True) + "\n")


def milliseconds(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The time each kind of operator takes in a training step, by lowering."""
    totals: dict[str, collections.Counter[str]] = {}
    for row in rows:
        sides = {lowering: row["sides"][side] for lowering, side in (("fast", "ours"), ("reference", "reference"))}
        if not in_training(row["kind"], row["direction"]) or any("left_out" in figures for figures in sides.values()):
            continue
        total = totals.setdefault(row["kind"], collections.Counter())
        for lowering, figures in sides.items():
            total[lowering] += row["count"] * figures["ms"]["median"]
    return {kind: {lowering: round(ms, 2) for lowering, ms in total.items()} for kind, total in totals.items()}
