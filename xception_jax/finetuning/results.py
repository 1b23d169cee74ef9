"""What fine-tuning leaves behind: the model folder, predictions, figures, and the page that shows them."""

import dataclasses
import datetime
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from xception_jax.data import UnreadableImages
from xception_jax.data.labelled import Labelled
from xception_jax.errors import some
from xception_jax.evaluation import conformal
from xception_jax.evaluation import outcome as outcome_lib
from xception_jax.evaluation.analysis import analyse
from xception_jax.evaluation.page import Axis, Curve, Measured, Report, write_page
from xception_jax.filesystem import atomic, table_files
from xception_jax.finetuning import model_card, thresholds
from xception_jax.finetuning.candidates import Candidate
from xception_jax.finetuning.fit import Fitted
from xception_jax.inference.mistakes import mistakes
from xception_jax.pretrained import Pretrained
from xception_jax.terminal.words import significant
from xception_jax.workdir import identity

PAGE, RESULTS, MODEL = "index.html", "results.json", Path("model", "model.safetensors")
TABLE = "splits.csv"
# By what the validation split's labels were used for.
CHOSE = {
    "head": "the regularization of the head",
    "temperature": "the temperature",
    "network": "the frozen or the unfrozen network",
    "sets": "the threshold of the prediction sets",
}


@dataclasses.dataclass(frozen=True)
class Results:
    """What was found.

    Attributes:
      config: the settings.
      labelled: the images.
      fitted: the head on the frozen network.
      candidates: the networks of which one was chosen by the validation split.
      chosen: this one.
      broken: why, by the name of each unreadable image.
    """

    config: ConfigDict
    labelled: Labelled
    fitted: Fitted
    candidates: Sequence[Candidate]
    chosen: Candidate
    broken: Mapping[str, str]


def write(found: Results, workdir: Path) -> dict[str, Any]:
    """Writes predictions, results.json, the model folder's card and the page; returns the contents of results.json."""
    analyses = {outcome.split: analyse(outcome) for outcome in found.chosen.outcomes}
    for outcome in found.chosen.outcomes:
        table_files.write_table(workdir / f"predictions-{outcome.split}.csv", outcome_lib.columns(outcome))
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": found.chosen.model.source,
        "task": found.labelled.task,
        "class_names": list(found.labelled.class_names),
        "images": {split: len(found.labelled.rows(split)) for split in ("train", "validation", "test")},
        "data": found.config.data.path,
        "remarks": list(found.labelled.remarks),
        "seed": found.config.seed,
        "image_size": found.chosen.model.input.image_size,
        "unreadable": dict(sorted(found.broken.items())),
        "candidates": {c.name: {"validation_loss": c.validation_loss} for c in found.candidates},
        "chosen": found.chosen.name,
        "regularization": found.fitted.chosen.strength,
        "temperature": found.chosen.temperature,
        "splits": {name: short(analysis) for name, analysis in analyses.items()},
        **identity.environment(),
    }
    if found.config.finetune.uncertainty and found.labelled.task == "single_label":
        limits = thresholds.find(found.chosen.outcomes[0], found.config.seed)
        kept = {outcome.split: thresholds.apply(outcome, limits) for outcome in found.chosen.outcomes}
        record["thresholds"] = {**_finite(dataclasses.asdict(limits)), "splits": kept}
    if (sets := found.chosen.model.conformal) is not None:
        test = [conformal.measure(o, sets.threshold) for o in found.chosen.outcomes if o.split == "test"]
        record["conformal"] = {**dataclasses.asdict(sets), "test": test[0] if test else None}
    atomic.write_atomically(workdir / RESULTS, json.dumps(record, indent=2, allow_nan=False) + "\n")
    steps = next_steps(workdir, found.chosen.model)
    # Whoever reads the card has the folder elsewhere.
    model_card.write(workdir / MODEL.parent, found.chosen.model, record, next_steps(Path(), found.chosen.model))
    write_page(workdir / PAGE, _report(found, analyses, record, workdir, steps))
    return record


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    """JSON has no infinity: a threshold that leaves nothing out is None."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


def short(analysis: dict[str, Any]) -> dict[str, Any]:
    """What of an analysis is short: the rest is in the predictions."""
    return {name: analysis[name] for name in ("count", "interval", "figures", "baseline", "per_class", "remarks")}


def next_steps(workdir: Path, model: Pretrained) -> list[tuple[str, str]]:
    """How the model is used, for the shell and for Python."""
    folder, outputs = str(workdir / MODEL.parent), "numbers" if model.scores == "linear" else "logits"
    named = f" --model={shlex.quote(model.model)}" if ":" in model.model else ""  # a file must not choose code
    return [
        ("Predict", f"xception-jax predict --weights={shlex.quote(folder)}{named} IMAGES-OR-FOLDERS"),
        (
            "From Python",
            f"import xception_jax\n\nmodel = xception_jax.create_model({model.model!r}, weights={folder!r})\n"
            f"{outputs} = model(model.preprocess(images))  # uint8 [H, W, 3] each",
        ),
    ]


def _report(
    found: Results, analyses: dict[str, Any], record: dict[str, Any], workdir: Path, steps: list[tuple[str, str]]
) -> Report:
    """The page's contents."""
    used = {"head": True, "temperature": found.chosen.temperature != 1, "network": len(found.candidates) > 1}
    used["sets"] = found.chosen.model.conformal is not None
    chose = {"validation": [CHOSE[name] for name, is_used in used.items() if is_used], "test": []}
    measured = [Measured(o, analyses[o.split], chose[o.split]) for o in reversed(found.chosen.outcomes)]
    trials = sorted(found.fitted.trials, key=lambda trial: trial.strength)
    strengths = [trial.strength for trial in trials]
    curve = Curve(
        "Loss by strength of the regularization",
        Axis("regularization", log=True),
        Axis("loss"),
        {
            "train": (strengths, [trial.train_loss for trial in trials]),
            "validation": (strengths, [trial.validation_loss for trial in trials]),
        },
        found.fitted.chosen.strength,
    )
    return Report(
        f"{workdir.name}: {found.labelled.task.replace('_', ' ')}",
        measured,
        facts(found, record),
        [curve],
        mistakes(found.chosen.model, found.labelled.root, measured[0].outcome),
        steps,
    )


def facts(found: Results, record: dict[str, Any]) -> list[tuple[str, str]]:
    """What the result was made of, for people."""
    data = found.labelled
    return [
        ("Weights", found.chosen.model.source),
        ("Data", record["data"]),
        ("Images", ", ".join(f"{count:,} {split}" for split, count in record["images"].items())),
        ("Numbers", some(data.class_names, 20))
        if data.task == "regression"
        else ("Classes", f"{len(data.class_names):,}: {some(data.class_names, 20)}"),
        *(("Data", sentence) for sentence in data.remarks),
        ("Head", found.config.finetune.head or "linear"),
        ("Regularization", f"{found.fitted.chosen.strength:.3g}, by the loss on the validation split"),
        *(
            (
                f"Network {c.name}",
                f"loss on validation {significant(c.validation_loss)}{', kept' if c is found.chosen else ''}",
            )
            for c in found.candidates
        ),
        *([("Prediction sets", conformal.said(record["conformal"]))] if "conformal" in record else []),
        *common_facts(found.chosen.model, record),
    ]


def common_facts(model: Pretrained, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What people should know of any measurement: the network, what it was not shown, and when and with what.

    Args:
      model: the network.
      record: with "date", "versions" and "unreadable", which has the names of the images that could not be read.
    """
    spec = model.input
    return [
        ("Network", f"{model.model}, {spec.image_size} px, {spec.resize}, {spec.interpolation}"),
        ("Unreadable images", ", ".join([*record["unreadable"]][:20]) or "none"),
        ("Date", record["date"]),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version)),
    ]


def show_unreadable(broken: UnreadableImages) -> None:
    """Prints the images that could not be read, and why."""
    for name, reason in sorted(broken.reasons.items()):
        print(f"not read: {name}: {reason}")


def said(figure: Mapping[str, Any]) -> str:
    """A figure and its interval."""
    if figure["value"] is None:
        return "undefined"
    interval = figure["interval"]
    return significant(figure["value"]) + (f" ({' to '.join(map(significant, interval))})" if interval else "")
