"""The description beside a fine-tuned model: config.json for programs, README.md for people and the hub."""

import json
import re
from pathlib import Path
from typing import Any

from xception_jax.errors import some
from xception_jax.evaluation import conformal
from xception_jax.filesystem import atomic
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained import card as pretrained_card
from xception_jax.terminal.words import counted, significant

FIGURES, NAMES = 8, 50  # of a table, of a list
ID = re.compile(r"[a-z0-9.-]+")  # a licence as the hub names it: apache-2.0


def write(folder: Path, model: Pretrained, record: dict[str, Any], steps: list[tuple[str, str]]) -> None:
    """Writes config.json and README.md into the model's folder.

    Args:
      folder: with the weights.
      model: the weights.
      record: the contents of results.json.
      steps: titles and lines that use the model.
    """
    config = pretrained_card.card_of(model, model.model, {})
    atomic.write_atomically(folder / pretrained_card.CONFIG, json.dumps(config, indent=2) + "\n")
    atomic.write_atomically(folder / "README.md", text(model, record, steps))


def text(model: Pretrained, record: dict[str, Any], steps: list[tuple[str, str]]) -> str:
    """The model card, in the form of the Hugging Face hub."""
    names, calibrated = record["class_names"], record["temperature"] != 1  # numbers have no temperature
    numbers = record["task"] == "regression"
    what = "" if numbers else f"{counted(len(names), 'class')}: "
    images = ", ".join(f"{count:,} {split}" for split, count in record["images"].items())
    unread = f" ({len(record['unreadable']):,} could not be read)" if record["unreadable"] else ""
    lines = [
        "---", "library_name: xception-jax",
        *([] if numbers else ["pipeline_tag: image-classification"]),  # the hub has none for numbers of images
        *([f"license: {model.licence if ID.fullmatch(model.licence) else 'other'}"] if model.licence else []),
        "---", "",
        f"# {model.model}, fine-tuned", "",
        f"Trained from {_without_folders(record['weights'])}, for {record['task'].replace('_', ' ')} of {what}"
        f"{some(names, NAMES)}.", "",
        *([f"Licence of the weights that it began with: {model.licence}.", ""] if model.licence else []),
        f"Images: {images}{unread}. Input: {model.input.image_size} px, {model.input.resize}."
        + (f" Temperature {record['temperature']:.3f}, in the weights." if calibrated else ""), "", "## Figures", "",
    ]  # fmt: skip
    for split, found in record["splits"].items():
        lines += [
            f"Split {split}, {found['count']:,} images:",
            "",
            "| figure | value | 95 % interval |",
            "|---|---|---|",
        ]
        for name, figure in [*found["figures"].items()][:FIGURES]:
            lines.append(f"| {name.replace('_', ' ')} | {_number(figure['value'])} | {_interval(figure['interval'])} |")
        lines.append("")
    if "conformal" in record:
        lines += [f"Prediction sets: {conformal.said(record['conformal'])}.", ""]
    chosen = "the regularization and the temperature" if calibrated else "the regularization"
    lines += [f"The validation split chose {chosen}; the test split chose nothing.", ""]
    lines += [
        "## Limits",
        "",
        "Figures hold for images like these, seen as described above; others were not tried.",
        "",
    ]
    lines += ["## Use", ""]
    for title, code in steps:
        lines += [f"{title}:", "", "```", code, "```", ""]
    return "\n".join(lines)


def _without_folders(source: str) -> str:
    """The weights, of which a local file's path says nothing to others."""
    return Path(source).name if Path(source).is_absolute() else source


def _number(value: float | None) -> str:
    return "undefined" if value is None else significant(value)


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else " to ".join(map(significant, interval))
