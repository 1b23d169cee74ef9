"""Two evaluations of the same pictures, side by side: `python -m xception_jax.compare A B`.

A and B are work directories or evaluation-<split>.json files. The test is paired (McNemar's): only the pictures that
one of the two got right and the other did not tell which is better.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from xception_jax import certificate, files, metrics
from xception_jax.certificate import Predictions
from xception_jax.errors import UserError

_JSON = flags.DEFINE_string("json", None, "A file for the comparison, as JSON.")

LEVEL = 0.05


def compare(a: tuple[dict[str, Any], Predictions], b: tuple[dict[str, Any], Predictions]) -> dict[str, Any]:
    """The paired comparison of two evaluations' top-1 results.

    Raises:
      UserError: they are not of the same examples with the same labels.
    """
    (record_a, said_a), (record_b, said_b) = a, b
    if record_a["split"] != record_b["split"]:
        raise UserError(f'the evaluations are of splits "{record_a["split"]}" and "{record_b["split"]}"')
    if said_a.ids != said_b.ids or not np.array_equal(said_a.labels, said_b.labels):
        raise UserError(
            f"the evaluations are of different pictures or labels ({len(said_a.ids)} and {len(said_b.ids)} pictures); "
            "a paired comparison needs the same"
        )
    right_a, right_b = said_a.correct(), said_b.correct()
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    difference, low, high = metrics.paired_difference(only_a, only_b, len(right_a))
    p = metrics.mcnemar(only_a, only_b)
    return {
        "count": len(right_a),
        "both_right": int((right_a & right_b).sum()),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "both_wrong": int((~right_a & ~right_b).sum()),
        "difference": difference,
        "difference_interval": [low, high],
        "p_value": p,
        "verdict": verdict(difference, p),
    }


def verdict(difference: float, p: float) -> str:
    """The comparison in a sentence."""
    if p >= LEVEL:
        return f"No difference is shown (McNemar's exact p = {p:.3g}, not below {LEVEL})."
    better = "B" if difference > 0 else "A"
    return f"{better} is better by {abs(difference) * 100:.2f} points (McNemar's exact p = {p:.3g})."


def table(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """The two certificates' numbers in columns."""

    def rate(record: dict[str, Any], name: str) -> str:
        low, high = record["metrics"][f"{name}_interval"]
        return f"{record['metrics'][name]:.4f} ({low:.4f} to {high:.4f})"

    rows = {
        "model": lambda r: r["model_name"],
        "step": lambda r: f"{r['step']:,}",
        "weights": lambda r: "averaged" if r["averaged"] else "last",
        "parameters": lambda r: f"{r['num_parameters']:,}",
        "pictures": lambda r: f"{r['count']:,}",
        "top-1 (95 %)": lambda r: rate(r, "top1"),
        "top-5 (95 %)": lambda r: rate(r, "top5"),
        "loss": lambda r: f"{r['metrics']['loss']:.4f}",
        "calibration error": lambda r: f"{r['metrics']['calibration_error']:.4f}",
    }
    result = Table(title=f"split {a['split']}")
    for title in ("", "A", "B"):
        result.add_column(title)
    for name, show in rows.items():
        result.add_row(name, show(a), show(b))
    return result


def class_table(a: dict[str, Any], b: dict[str, Any], most: int = 10) -> Table:
    """The classes whose recall differs most."""
    pairs = [(x, y) for x, y in zip(a["per_class"], b["per_class"], strict=True) if x["count"]]
    pairs.sort(key=lambda pair: -abs(pair[1]["recall"] - pair[0]["recall"]))
    result = Table(title="recall of the classes that differ most")
    for title in ("class", "pictures", "A", "B", "B - A"):
        result.add_column(title, justify="left" if title == "class" else "right")
    for x, y in pairs[:most]:
        change = y["recall"] - x["recall"]
        result.add_row(x["name"], f"{x['count']:,}", f"{x['recall']:.3f}", f"{y['recall']:.3f}", f"{change:+.3f}")
    return result


def main(argv: Sequence[str]) -> None:
    """Prints the comparison of two evaluations."""
    try:
        if len(argv) != 3:
            raise UserError(f"give two evaluations to compare (work directories or .json files), not {len(argv) - 1}")
        a, b = (certificate.read(Path(path)) for path in argv[1:])
        result = compare(a, b)
        console = Console()
        console.print(f"A: {argv[1]}\nB: {argv[2]}", highlight=False, soft_wrap=True)
        console.print(table(a[0], b[0]))
        console.print(class_table(a[0], b[0]))
        low, high = result["difference_interval"]
        console.print(
            f"Both right {result['both_right']:,}, only A {result['only_a_right']:,}, "
            f"only B {result['only_b_right']:,}, both wrong {result['both_wrong']:,}. "
            f"B - A: {result['difference'] * 100:+.2f} points (95 %: {low * 100:+.2f} to {high * 100:+.2f}).\n{result['verdict']}",
            highlight=False,
            soft_wrap=True,
        )
        if _JSON.value:
            files.write_atomically(Path(_JSON.value), json.dumps(result, indent=2) + "\n")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
