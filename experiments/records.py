"""A finished run as a small record: what was run, on what, and what came out. `experiments.report` reads them."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from xception_jax.config import default, flatten
from xception_jax.filesystem import atomic

SCHEMA = 1
CERTIFICATE = "evaluation-test.json"


def record_of(workdir: Path, variant: str, seed: int, command: str) -> dict[str, Any]:
    """The record of the run in a work directory that has been trained and tested.

    Returns:
      variant, seed, command, date; config: settings that are not the default, by dotted key; parameters; test: metrics
      of the test split, and count; curve: step and metrics of each validation; train_seconds: from the first line of
      the log to the last; images_per_second: median over the log's lines; code, versions, device, starts: as in
      run.json, of the last start, and the number of all.
    """
    certificate = json.loads((workdir / CERTIFICATE).read_text())
    starts = json.loads((workdir / "run.json").read_text())["starts"]
    log = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in log if line["kind"] == "train" and "images_per_second" in line]
    return {
        "schema": SCHEMA,
        "variant": variant,
        "seed": seed,
        "command": command,
        "date": certificate["date"],
        "config": _changed(certificate["config"]),
        "parameters": certificate["num_parameters"],
        "steps": certificate["step"],
        "test": {**certificate["metrics"], "count": certificate["count"]},
        "curve": [_without(line, "kind", "split", "time") for line in log if line["kind"] == "evaluation"],
        "train_seconds": round(log[-1]["time"] - log[0]["time"], 1),
        "images_per_second": round(statistics.median(rates), 1) if rates else None,
        "code": starts[-1]["code"],
        "versions": starts[-1]["versions"],
        "device": starts[-1]["device"],
        "starts": len(starts),
    }


def _changed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults, without the folder of the data, which is the user's own."""
    usual, settings = flatten(default()), flatten(ConfigDict(config))
    own = ("data.path", "data.data_dir", "seed")
    return {key: value for key, value in settings.items() if value != usual.get(key) and key not in own}


def _without(line: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in names}


def path(folder: Path, variant: str, seed: int) -> Path:
    """Where the record of a run is."""
    return folder / variant / f"{seed}.json"


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes a record."""
    file = path(folder, record["variant"], record["seed"])
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(file, json.dumps(record, indent=1) + "\n")


def read_all(folder: Path) -> Iterator[dict[str, Any]]:
    """The records in a folder, by variant and seed."""
    for file in sorted(folder.glob("*/*.json")):
        yield json.loads(file.read_text())
