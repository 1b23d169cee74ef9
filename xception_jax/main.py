"""Trains, evaluates or checks an experiment: `python -m xception_jax.main --config=configs/xception.py`."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Before jax is imported: TensorFlow, where TFDS needs it, must not take the accelerator's memory.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from xception_jax import config as config_lib
from xception_jax.cli import common
from xception_jax.errors import UserError, suggest

MODES = ("train", "evaluate", "check", "show_batch")

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's settings, a file in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is written and resumed. Default: runs/<config's name>.")
_MODE = flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
_STEP = flags.DEFINE_string(
    "step", None, "evaluate: a checkpoint's step, last (default) or best. show_batch: the step."
)
_PROFILE = flags.DEFINE_string("profile", None, "train: START:COUNT, the steps to trace into the work directory.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "Whether this is one of several processes. Default: as srun, mpirun or JAX_NUM_PROCESSES say; TPU pods need it.",
)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; what is mistyped ends in one line that says so, and exit code 2."""
    try:
        common.check_config_flags(argv[1:])
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f'"{rest[1]}" is no flag; flags are written --name=value')
        return rest
    except (UserError, flags.Error) as e:
        common.fail(e)


def main(argv: Sequence[str]) -> None:
    """Runs the mode asked for; a user's mistake exits with 2, a failed run with 1."""
    from xception_jax.parallel import distributed, host_memory

    del argv
    modes: dict[str, Callable[[Path], None]] = {
        "train": train,
        "evaluate": evaluate,
        "check": check,
        "show_batch": show_batch,
    }
    with common.errors_in_one_line("interrupted; the same command goes on from the last checkpoint"):
        if _MODE.value not in modes:
            raise UserError(f'unknown --mode "{_MODE.value}"; {suggest(_MODE.value, MODES)}')
        with distributed.stopping_together():
            distributed.initialize(_DISTRIBUTED.value)
            host_memory.reuse_step_memory()
            modes[_MODE.value](workdir())


def config() -> ConfigDict:
    """The config given on the command line."""
    if _CONFIG.value is None:
        raise UserError("give an experiment, such as --config=configs/quickstart.py")
    return _CONFIG.value


def workdir() -> Path:
    """The run's folder."""
    if _WORKDIR.value is not None:
        return Path(_WORKDIR.value).expanduser().absolute()
    config()
    return Path("runs", Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem).absolute()


def train(workdir: Path) -> None:
    """Trains to the end, or goes on from where the work directory stopped."""
    from xception_jax.parallel.preemption import RESTART, Preempted
    from xception_jax.training import loop
    from xception_jax.workdir.throughput import parse_profile

    try:
        results = loop.train(config(), workdir, parse_profile(_PROFILE.value))
    except Preempted:
        print("Stopped by SIGTERM; all is saved, and the same command goes on.", file=sys.stderr)
        sys.exit(RESTART)
    metrics = results["metrics"]
    print(
        f"done: {results['model']}, step {results['step']}, split {results['split']} ({results['count']} pictures): "
        f"top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}, loss {metrics['loss']:.4f}; see {workdir}"
    )


def evaluate(workdir: Path) -> None:
    """Writes the certificate of one of the work directory's checkpoints, on `data.test_split`."""
    from xception_jax import experiment
    from xception_jax.evaluation.evaluator import Evaluator
    from xception_jax.workdir.checkpoints import Checkpoints

    settings = config_lib.read(workdir / "config.json")
    settings.mesh = config_lib.default().mesh  # the one it was trained on may not fit these devices
    if _CONFIG.value is not None:
        asked = config_lib.fill(config(), config_lib.flatten(settings))
        asked.model.weights = settings.model.weights
        config_lib.check_same_run(workdir, settings, asked, config_lib.EVALUATION_MAY_CHANGE)
        settings = asked
    settings.model.weights = ""  # where training began; the checkpoint has what became of them
    checkpoints = Checkpoints(workdir, settings.checkpoint, read_only=True)
    step = checkpoints.find(_STEP.value or "last")
    run = experiment.create(settings)
    evaluator = Evaluator(run, settings.data.test_split)
    state = checkpoints.restore(step, run.abstract_state, run.state_shardings)
    record = evaluator.certify(state, *evaluator.predict(state), workdir)
    metrics = record["metrics"]
    print(
        f"{settings.model.name}, step {step}, split {evaluator.split}: {record['count']} pictures, "
        f"top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}, loss {metrics['loss']:.4f}"
    )


def check(workdir: Path) -> None:
    """Says what the config means, and whether its data is there, without computing anything."""
    from xception_jax import experiment
    from xception_jax.evaluation.evaluator import open_split
    from xception_jax.training import summary

    run = experiment.create(config())
    data = run.config.data
    splits = dict.fromkeys((data.train_split, data.validation_split, data.test_split))
    counts = [f"{split} {len(open_split(run, split)):,}" for split in splits]
    summary.show(run)
    summary.show_memory(run)
    print(f"data: {data.name}, {run.num_classes} classes, {', '.join(counts)}")
    print(f"ok: the run would be written to {workdir}")


def show_batch(workdir: Path) -> None:
    """Draws the batch of a step."""
    from xception_jax import experiment
    from xception_jax.cli.show_batch import show_batch
    from xception_jax.parallel.processes import primary

    if _STEP.value is None or not _STEP.value.isdecimal():
        raise UserError("--mode=show_batch needs --step=NUMBER, the training step to look at, counted from 0")
    run = experiment.create(config())
    if not primary():
        return
    path = show_batch(run, int(_STEP.value), workdir)
    print(path.with_suffix(".txt").read_text(), end="")
    print(f"see {path}")


def run() -> None:
    """The command's entry."""
    common.prepare()
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
