"""Trains, evaluates or checks an experiment: `python -m xception_jax.main --config=configs/xception.py`."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before jax is imported: TensorFlow, where TFDS needs it, must not take the accelerator's memory.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from xception_jax.cli import called, common
from xception_jax.errors import UserError, suggest
from xception_jax.filesystem import paths

if TYPE_CHECKING:
    from xception_jax.data import Source

MOST_NAMED = 3  # images in a sentence
MODES = ("train", "evaluate", "check", "show_batch", "find_rate")

_CONFIG = common.define_config("The experiment's settings, a file in configs/.")
_WORKDIR = common.define_path("workdir", None, "Where the run is written and resumed. Default: runs/<config's name>.")
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
        rest = common.parse_flags([argv[0], *common.check_config_flags(argv[1:])])
        if len(rest) > 1:
            raise UserError(f'"{rest[1]}" is not a flag; flags are written --name=value')
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
        "find_rate": find_rate,
    }
    interrupted = "interrupted; the same command resumes from the last checkpoint"
    with distributed.stopping_together(), common.errors_in_one_line(interrupted):
        if _MODE.value not in modes:
            raise UserError(f'unknown --mode "{_MODE.value}"; {suggest(_MODE.value, MODES)}')
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
        return paths.local(_WORKDIR.value).absolute()
    config()
    path, _, choice = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return Path("runs", *filter(None, [Path(path).stem, choice])).absolute()


def train(workdir: Path) -> None:
    """Trains to the end, or resumes from the work directory's last checkpoint."""
    from xception_jax.parallel.preemption import RESTART, Preempted, Preemption
    from xception_jax.training import loop
    from xception_jax.workdir.throughput import parse_profile

    profile = parse_profile(_PROFILE.value)
    try:
        results = loop.train(config(), workdir, profile=profile, preemption=Preemption(listens=True))
    except Preempted:
        print("Stopped by SIGTERM; all is saved, and the same command resumes.", file=sys.stderr)
        sys.exit(RESTART)
    print(f"done: {measured(results)}; see {workdir}")


def evaluate(workdir: Path) -> None:
    """Evaluates one of the work directory's checkpoints."""
    from xception_jax.evaluation import report
    from xception_jax.evaluation.run import evaluate_run

    record = evaluate_run(workdir, _CONFIG.value, step=_STEP.value or "last")
    print(measured(record))
    seen = report.Seen(record["unreadable"], record["pictures"]["treated"])
    if seen.treated:
        print(seen)
    if record["name"] != record["split"]:
        print(f"not what the run evaluates: see {report.path_of(workdir, record['name'])}")


def measured(results: dict[str, Any]) -> str:
    """The figures in results.json or a certificate, in words, and of what they are."""
    from xception_jax.tasks.task import in_words

    what = f"{results['model']}, step {results['step']}, split {results['split']} ({results['count']} images)"
    return f"{what}: {in_words(results['metrics'])}"


def check(workdir: Path) -> None:
    """Says what the config means, and whether its data is there, without computing anything."""
    from xception_jax import experiment
    from xception_jax.terminal.words import outputs
    from xception_jax.training import recipe, summary

    run = experiment.create(config())
    data = run.config.data
    splits = dict.fromkeys((data.train_split, data.validation_split, data.test_split))
    counts = [f"{split} {len(run.open_split(split)):,}" for split in splits]
    how = recipe.create_recipe(run)
    summary.show(how)
    summary.show_memory(how)
    print(f"data: {data.name}, {outputs(run.num_classes, run.task.scores)}, {', '.join(counts)}")
    for split in splits:
        if split != data.train_split:
            say_shared(run.source, run.open_split(split), split)
    print(f"ok: the run would be written to {workdir}")


def say_shared(train: "Source", other: "Source", split: str) -> None:
    """Says which images of a split are images of the training split, too, if both are files."""
    from xception_jax.data.duplicates import shared_files
    from xception_jax.terminal.console import progress

    if not (hasattr(train, "files") and hasattr(other, "files")):
        return
    with progress("images compared") as bar:
        task = bar.add_task("", total=len(other))
        shared = shared_files(train.files, other.files, lambda _: bar.advance(task))
    if shared:
        some = ", ".join(f"{path} is {same}" for path, same in list(shared.items())[:MOST_NAMED])
        print(f'warning: {len(shared):,} images of split "{split}" are in the training split, too: {some}')


def show_batch(workdir: Path) -> None:
    """Draws the batch of a step."""
    from xception_jax import experiment
    from xception_jax.cli.show_batch import show_batch
    from xception_jax.parallel.processes import primary

    if _STEP.value is None or not _STEP.value.isdecimal():
        command = called.command("main --mode=show_batch")
        raise UserError(f"{command} needs --step=NUMBER, the training step to look at, counted from 0")
    run = experiment.create(config())
    if not primary():
        return
    path = show_batch(run, int(_STEP.value), workdir)
    print(path.with_suffix(".txt").read_text(), end="")
    print(f"see {path}")


def find_rate(workdir: Path) -> None:
    """Suggests a learning rate."""
    from xception_jax.training import rate_finder

    trial = rate_finder.find_rate(config(), workdir)
    ended = "all" if len(trial.rates) == rate_finder.STEPS else "then the loss diverged"
    print(f"learning rates {rate_finder.LOWEST:g} to {rate_finder.HIGHEST:g}: {len(trial.rates)} steps, {ended}")
    if trial.suggestion is None:
        print("no rate lowered the loss: the network may be trained already, or the data may be wrong")
    else:
        loss, rate = trial.losses[trial.best], trial.rates[trial.best]
        print(f"the smoothed loss is least, {loss:.4g}, at {rate:.2g}; the suggestion is a tenth of that:")
        print(f"--config.learning_rate={trial.suggestion:.2g}")
    print(f"see {workdir / 'rates.png'}")


def run() -> None:
    """The command's entry."""
    common.prepare()
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    run()
