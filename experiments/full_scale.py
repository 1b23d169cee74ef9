"""Shows that each full-scale config can be run: what a run needs, without its data and its devices.

    python -m experiments.full_scale --records=docs/records/full_scale

For each config, or those named, three parts, each kept in the config's record as it ends; the same command does what is
missing:

- plan: the training step, compiled for a TPU slice (it needs `pip install "jax[tpu]"`): memory, and a bound of speed;
- training: three steps of a small batch of synthetic images of full size, on the CPU, with the peak of host memory;
- input: images/s that this machine makes of JPEG files as the config says, and their memory at its batch size.
"""

import argparse
import datetime
import json
import math
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.paper import RUNS
from experiments.records import SCHEMA
from xception_jax.cli.common import config_of, find_config
from xception_jax.config import flatten
from xception_jax.filesystem import atomic

CONFIGS = (
    *(f"configs/paper.py:{run}" for run in RUNS),
    "configs/xception_rsb.py:a2",
    "configs/xception_rsb.py:a3",
    "configs/xception_ra3.py",
)
TOPOLOGY, CHIPS = "v5e:4x4", 16
REPLICA = 32  # a batch_size of so many images is one replica's in these configs: here each chip is one
JFT_CLASSES = 17_000
STEPS, SMALL_BATCH = 3, 8
TURNS, SECONDS = 3, 15  # of the input
# What decides how fast views of images are made.
VIEWS = ("batch_size", "image_size", "data.crop_area", "data.crop_aspect", "data.flip", "data.augment",
         "data.magnitude", "data.magnitude_std", "data.num_operations", "data.erase_probability", "data.repeats",
         "data.interpolation")  # fmt: skip

Record = dict[str, Any]


def settings_of(config: str) -> ConfigDict:
    """The settings of "FILE:NAME"."""
    return config_of(find_config(config))


def run(*command: str) -> int:
    """Runs a module's command; returns the peak of its resident memory, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", *command], env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of python -m {shlex.join(command)}")
    return usage.ru_maxrss * 1024


def plan(config: str, folder: Path) -> Record:
    """Compiles the training step for the slice."""
    settings = settings_of(config)
    command = ["xception_jax.plan", f"--config={config}", f"--topology={TOPOLOGY}"]
    command += [f"--batch={REPLICA}"] if settings.batch_size == REPLICA else []
    command += [f"--config.model.num_classes={JFT_CLASSES}"] if settings.task else []
    run(*command, f"--json={folder / 'plan.json'}")
    found = json.loads((folder / "plan.json").read_text())
    kept = ("topology", "devices", "batch_per_chip", "dtype", "fits", "needed", "limit", "images_per_second",
            "compile_seconds", "versions")  # fmt: skip
    return {"command": shlex.join(["python", "-m", *command]), **{name: found[name] for name in kept}}


def training(config: str, folder: Path) -> Record:
    """Trains some steps on the CPU. The loss after each is finite, or the run has failed."""
    command = ["xception_jax.main", f"--config={config}", "--config.data.name=synthetic"]
    command += [f"--config.data.num_examples={2 * SMALL_BATCH}", f"--config.batch_size={SMALL_BATCH}"]
    command += [f"--config.num_examples={STEPS * SMALL_BATCH}", "--config.log_every=1 steps"]
    command += ["--config.evaluation.every=never", "--config.checkpoint.every=never"]
    command += [f"--config.data.num_classes={JFT_CLASSES}"] if settings_of(config).task else []
    peak = run(*command, f"--workdir={folder / 'run'}")
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    results = json.loads((folder / "run" / "results.json").read_text())
    return {
        "command": shlex.join(["python", "-m", *command]),
        "batch_size": SMALL_BATCH,
        "losses": losses,
        "parameters": results["num_parameters"],
        "peak_bytes": peak,
        **{name: results[name] for name in ("versions", "device")},
    }


def input_of(config: str, folder: Path) -> Record:
    """The input pipeline's images/s, in a process of its own."""
    from xception_jax.benchmarking.photographs import write_photographs

    write_photographs(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
        return own.submit(_input_of, config, folder).result()


def _input_of(config: str, folder: Path) -> Record:
    from xception_jax import experiment
    from xception_jax.benchmarking import output
    from xception_jax.benchmarking.sides.protocol import process_peak
    from xception_jax.data import UnreadableImages, train_batches
    from xception_jax.data.pipeline import cores
    from xception_jax.data.sources.image_files import ImageFiles, find_images
    from xception_jax.parallel import host_memory

    host_memory.reuse_step_memory()  # as training does
    settings = settings_of(config)
    settings.data.name = "synthetic"  # not read: the files take its place
    made, size = experiment.create(settings), settings.batch_size
    files, broken = ImageFiles(find_images([folder])[0]), UnreadableImages()
    batches = train_batches(
        files, made.input, made.augmentation, batch_size=size, seed=0, start_step=0, broken=broken
    )  # fmt: skip
    next(batches)
    rates = []
    for _ in range(TURNS):
        began, count = time.monotonic(), 0
        while time.monotonic() - began < SECONDS:
            count += len(next(batches)["image"])
        rates.append(round(count / (time.monotonic() - began), 1))
    return {
        "command": f"python -m experiments.full_scale --parts=input {config}",
        "settings": views(config),
        "images_per_second": sorted(rates),
        "peak_bytes": process_peak()["bytes"],
        "processor": output.processor(),
        "cores": cores(),
        "versions": output.versions(),
    }


def views(config: str) -> dict[str, Any]:
    """The settings that decide the input's speed."""
    settings = flatten(settings_of(config))
    return {name: settings[name] for name in VIEWS}


PARTS: dict[str, Callable[[str, Path], Record]] = {"plan": plan, "training": training, "input": input_of}


def path_of(folder: Path, config: str) -> Path:
    """Where the record of a config is."""
    file, _, name = config.partition(":")
    return folder / f"{'-'.join(filter(None, [Path(file).stem, name]))}.json"


def read_all(folder: Path) -> list[Record]:
    """The records in a folder, in the order of `CONFIGS`."""
    files = (path_of(folder, config) for config in CONFIGS)
    return [json.loads(file.read_text()) for file in files if file.exists()]


def do(config: str, part: str, folder: Path) -> None:
    """Does a part, and writes it into the config's record; an input with the same settings is measured once."""
    from xception_jax.workdir import identity

    inputs = [record["input"] for record in read_all(folder) if "input" in record] if part == "input" else []
    done = next((other for other in inputs if other["settings"] == views(config)), None)
    if done is None:
        print(f"{config}: {part}", flush=True)
        code, date = identity.code(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with tempfile.TemporaryDirectory() as scratch:
            done = {"date": date, "code": code, **PARTS[part](config, Path(scratch))}
    file = path_of(folder, config)
    record = json.loads(file.read_text()) if file.exists() else {"schema": SCHEMA, "config": config}
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_atomically(file, json.dumps(record | {part: done}, indent=1) + "\n")


def _spread(rates: Sequence[float]) -> str:
    slow, median, fast = (f"{rate:,.0f}" for rate in rates)
    return f"{median} ({slow} to {fast})"


# The table's columns of each part.
COLUMNS: dict[str, dict[str, Callable[[Record], str]]] = {
    "plan": {
        "images a chip": lambda plan: f"{plan['batch_per_chip']}, {plan['dtype']}",
        "fits": lambda plan: "yes" if plan["fits"] else "no",
        "GB a chip": lambda plan: f"{plan['needed'] / 1e9:.1f} of {plan['limit'] / 1e9:.1f}",
        "images/s, at most": lambda plan: f"{min(plan['images_per_second'].values(), default=0):,.0f}",
        "compiled in": lambda plan: f"{plan['compile_seconds']:.0f} s",
    },
    "training": {
        "loss": lambda run: ", ".join(f"{loss:.3f}" for loss in run["losses"]),
        "host, GB": lambda run: f"{run['peak_bytes'] / 1e9:.1f}",
    },
    "input": {
        "input, images/s": lambda read: _spread(read["images_per_second"]),
        "own batch": lambda read: f"{read['settings']['batch_size']:,}",
        "its host, GB": lambda read: f"{read['peak_bytes'] / 1e9:.1f}",
    },
}
HEAD = ("config", *(head for columns in COLUMNS.values() for head in columns))


def rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """A line for each config, under `HEAD`; empty where a part is missing."""
    cells = [(part, write) for part, columns in COLUMNS.items() for write in columns.values()]
    return [
        (f"`{record['config']}`", *(write(record[part]) if part in record else "" for part, write in cells))
        for record in records
    ]


def conditions(records: Sequence[Record]) -> str:
    """What the parts were done with, and when."""
    done = [record[part] for record in records for part in PARTS if part in record]
    machines = {f"{d['cores']} cores, {d['processor']}" for d in done if "cores" in d}
    libraries = {f"{name} {d['versions'][name]}" for d in done for name in ("jax", "libtpu") if name in d["versions"]}
    commits, dates = {d["code"]["commit"][:7] for d in done}, {d["date"][:10] for d in done}
    said = "; ".join(", ".join(sorted(values)) for values in (dates, machines, libraries) if values)
    return f"{said}; code {', '.join(sorted(commits))}."


def main(argv: Sequence[str]) -> None:
    """Does what has no record yet."""
    parser = argparse.ArgumentParser(prog="python -m experiments.full_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=Path, default=Path("runs/full_scale"), help="folder of the records")
    parser.add_argument("--parts", default=",".join(PARTS), help="those to do, with commas")
    parser.add_argument("configs", nargs="*", default=CONFIGS, help="default: all of the project's")
    arguments = parser.parse_args(argv)
    for config in arguments.configs:
        for part in arguments.parts.split(","):
            file = path_of(arguments.records, config)
            if not file.exists() or part not in json.loads(file.read_text()):
                do(config, part, arguments.records)


if __name__ == "__main__":
    main(sys.argv[1:])
