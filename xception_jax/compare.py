"""Compares evaluations of the same examples: `python -m xception_jax.compare A B... [--split=NAME] [--json=FILE]`.

A and B are certificates (evaluation-<split>.json) or the work directories they are in. Two are compared in detail; of
more, each is tested against the first.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from xception_jax.cli import called, common
from xception_jax.terminal.words import significant

USAGE = "A B... [--split=NAME] [--json=FILE], of certificates or work directories"

Cell = Callable[[dict[str, Any]], str]


def show(result: dict[str, Any]) -> None:
    """Prints a comparison as tables."""
    from xception_jax.terminal.console import console, table

    out, figures = console(), table("", "A", "B", title=f"split {result['split']}")
    for title, cell in _rows(result["a"]["metrics"]).items():
        figures.add_row(title, cell(result["a"]), cell(result["b"]))
    out.print(figures)
    out.print("\n".join(_test(result)))
    for name, (a, b) in result["seen_differently"].items():
        out.print(f"pictures were seen differently: {name} {a} by A, {b} by B")
    out.print(result["verdict"], style="bold")
    if not result["classes"]:
        return
    if "figure" in result:
        title = result["classes"][0]["figure"].replace("_", " ")
        classes = table("class", "A", "B", "B - A", title=f"classes that differ most in {title}")
        for c in result["classes"]:
            classes.add_row(c["name"], significant(c["a"]), significant(c["b"]), significant(c["b"] - c["a"], "+"))
        out.print(classes)
        return
    classes = table("class", "examples", "A right", "B right", "B - A, points", title="classes that differ most")
    for c in result["classes"]:
        points = 100 * (c["correct_b"] - c["correct_a"]) / c["count"]
        classes.add_row(c["name"], f"{c['count']:,}", f"{c['correct_a']:,}", f"{c['correct_b']:,}", f"{points:+.1f}")
    out.print(classes)


def show_all(result: dict[str, Any]) -> None:
    """Prints a comparison of many with the first as a table."""
    from xception_jax.tasks.task import FIGURES
    from xception_jax.terminal.console import console, table

    first, *others = result["runs"]
    rows = _rows(first["metrics"])
    figure = result["against_first"][0].get("figure", "top1")
    (title,) = [t for t in rows if t.startswith(FIGURES[figure].title)]

    def points(value: float) -> str:
        return f"{100 * value:+.2f}" if figure == "top1" else significant(value, "+")

    figures = table(
        "run", "parameters", title, "less the first's (95 %)", "p", "p, corrected", title=f"split {result['split']}"
    )
    figures.add_row(first["path"], rows["parameters"](first), rows[title](first))
    for run, test in zip(others, result["against_first"], strict=True):
        gap = "" if test["difference"] is None else points(test["difference"])
        if test["difference_interval"]:
            gap += " ({} to {})".format(*map(points, test["difference_interval"]))
        chances = (f"{test[name]:.2g}" for name in ("p_value", "holm_p_value"))
        figures.add_row(run["path"], rows["parameters"](run), rows[title](run), gap, *chances)
    out = console()
    out.print(figures)
    out.print("p: of the paired test against the first run; corrected for the number of tests by Holm's method")


def _test(result: dict[str, Any]) -> list[str]:
    """The test and the differences, in lines."""
    from xception_jax.tasks.task import FIGURES

    if "figure" in result:
        lines = [
            f"random signs of the images' differences in {FIGURES[result['figure']].title}: p = {result['p_value']:.3g}"
        ]
        for name, found in result["differences"].items():
            if found["value"] is not None:
                ends = [significant(end, "+") for end in found["interval"] or ()]
                interval = f", 95 % interval {' to '.join(ends)}" if ends else ""
                lines.append(f"{FIGURES[name].title}, B - A: {significant(found['value'], '+')}{interval}")
        return lines
    low, high = result["difference_interval"]
    return [
        f"only A is right: {result['only_a']:,}   only B is right: {result['only_b']:,}",
        f"McNemar's exact test: p = {result['p_value']:.3g}",
        f"top-1, B - A: {100 * result['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}",
    ]


def _rows(metrics: dict[str, Any]) -> dict[str, Cell]:
    """The table's rows for figures like these: from its title to what stands in it for one side's."""
    from xception_jax.tasks.task import FIGURES

    def share(name: str) -> Cell:
        def cell(side: dict[str, Any]) -> str:
            low, high = side["metrics"][f"{name}_interval"]
            return f"{100 * side['metrics'][name]:.2f} % ({100 * low:.2f} to {100 * high:.2f})"

        return cell

    def number(name: str) -> Cell:
        return lambda side: "not finite" if side["metrics"].get(name) is None else significant(side["metrics"][name])

    def with_interval(name: str) -> Cell:
        def cell(side: dict[str, Any]) -> str:
            interval = side["metrics"].get(f"{name}_interval")
            return number(name)(side) + (f" ({' to '.join(map(significant, interval))})" if interval else "")

        return cell

    shares = {
        "top-1 (95 % interval)": share("top1"),
        "top-5 (95 % interval)": share("top5"),
        "loss": number("loss"),
        "calibration error": number("ece"),
    }
    measured = [name for name in FIGURES if f"{name}_interval" in metrics]
    others = {f"{FIGURES[name].title} (95 % interval)": with_interval(name) for name in measured}
    return {
        "path": lambda side: side["path"],
        "model": lambda side: side["model"],
        "step": lambda side: f"{side['step']:,}",
        "weights": lambda side: "averaged" if side["averaged"] else "last",
        "parameters": lambda side: f"{side['num_parameters']:,}",
        "examples": lambda side: f"{side['count']:,}",
        **(shares if "top1" in metrics else {**others, "loss": number("loss")}),
    }


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("split", None, "Which evaluation to compare, if a work directory has several.")
    common.define_path("json", None, "A file to write the comparison to, as JSON.")


def main(arguments: Sequence[str]) -> None:
    """Compares, prints and writes."""
    if len(arguments) < 2:
        raise called.wrong_usage("compare", USAGE)
    from xception_jax.evaluation.comparison import compare, compare_all
    from xception_jax.filesystem import atomic

    paths, split = [Path(argument) for argument in arguments], flags.FLAGS.split
    result = compare(paths[0], paths[1], split) if len(paths) == 2 else compare_all(paths, split)
    if output := flags.FLAGS.json:
        atomic.write_atomically(Path(output), json.dumps(result, indent=2) + "\n")
    (show if len(paths) == 2 else show_all)(result)


if __name__ == "__main__":
    common.run(main, define_flags)
