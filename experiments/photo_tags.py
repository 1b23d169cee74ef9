"""Fully connected layers or none, on photographs with several labels each: the small twin of the paper's table 2.

    python -m experiments.photo_tags --data=TABLE --weights=WEIGHTS --workdir=runs/photo_tags

On the features of an ImageNet-trained Xception, a linear head and one with two layers of 1024, each with three seeds,
which also split off the validation images. Flags after `--` are `finetune`'s.

Stated before any head was measured on the test split: the linear head's MAP@100 is above that of the labels'
frequencies, the same ranking for each image, by at least 0.20, and its macro average precision by at least 0.15.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments import records

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "records" / "photo_tags"
HEADS = {"linear": "", "fc": "dense 1024 relu, dense 1024 relu"}
SEEDS = 3


def run(arguments: argparse.Namespace, variant: str, seed: int) -> dict[str, Any]:
    """Fits a head, and returns its record."""
    workdir = arguments.workdir / variant / str(seed)
    workdir.mkdir(parents=True, exist_ok=True)
    features = arguments.workdir / "features"
    features.mkdir(exist_ok=True)
    if not (workdir / "features").exists():  # computed once, for all heads
        (workdir / "features").symlink_to(features.resolve(), target_is_directory=True)
    flags = [f"--config.finetune.head={HEADS[variant]}", f"--config.seed={seed}", *arguments.flags]
    command = ["-m", "xception_jax.finetune"]
    own = [f"--data={arguments.data}", f"--weights={arguments.weights}", f"--workdir={workdir}"]
    if code := subprocess.run([sys.executable, *command, *own, *flags], check=False).returncode:
        sys.exit(code)  # it has said why
    found = json.loads((workdir / "results.json").read_text())
    test = found["splits"]["test"]
    return {
        "schema": records.SCHEMA,
        "variant": variant,
        "seed": seed,
        "command": shlex.join(["python", *command, "--data=TABLE", "--weights=WEIGHTS", *flags]),
        "images": found["images"],
        "regularization": found["regularization"],
        "test": {name: figure["value"] for name, figure in test["figures"].items()} | {"count": test["count"]},
        "baseline": test["baseline"],  # the labels' frequencies
        **{name: found[name] for name in ("date", "code", "versions", "device")},
    }


def main() -> None:
    """Fits all heads, and keeps their records."""
    parser = argparse.ArgumentParser(prog="python -m experiments.photo_tags", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="the table of files and labels")
    parser.add_argument("--weights", required=True, help="Xception's, as for finetune")
    parser.add_argument("--workdir", type=Path, required=True, help="where the runs are written")
    parser.add_argument("flags", nargs="*", help="after --: flags of finetune")
    arguments = parser.parse_args()
    for seed in range(SEEDS):
        for variant in HEADS:
            records.write(RESULTS, run(arguments, variant, seed))


if __name__ == "__main__":
    main()
