"""The program `xception-jax`: every command of the package under one name."""

import os
import re
import runpy
import sys

from xception_jax.cli import called
from xception_jax.errors import suggest
from xception_jax.version import __version__

# From a command's name to its module, the flags that make the module this command, and what it does. Modules are
# imported when their command is run, so that help is printed at once.
COMMANDS: dict[str, tuple[str, list[str], str]] = {
    "train": ("main", ["--mode=train"], "train an experiment, or resume it"),
    "evaluate": ("main", ["--mode=evaluate"], "measure a checkpoint of a --workdir, or any --weights on --data"),
    "check": ("main", ["--mode=check"], "say what a config means, and whether its data is there"),
    "show-batch": ("main", ["--mode=show_batch"], "draw the batch of a training step"),
    "find-rate": ("main", ["--mode=find_rate"], "suggest a learning rate, from a short trial of rising rates"),
    "finetune": ("finetune", [], "train a classifier of your own images from trained weights"),
    "predict": ("predict", [], "classify images with trained weights"),
    "convert": ("convert", [], "convert weights to another format, or find where two networks differ"),
    "compare": ("compare", [], "compare two evaluations of the same examples"),
    "plan": ("plan", [], "compile training for devices that are not there: memory, traffic, speed"),
    "benchmark": ("benchmark", [], "measure speed and memory, in turns with other libraries"),
    "doctor": ("doctor", [], "say whether this machine is ready: devices, kernels, input, disk, hub"),
    "verify-resume": ("resilience.verify_resume", [], "prove that an interrupted run ends like an uninterrupted one"),
    "chaos": ("resilience.chaos", [], "kill a run again and again, and show that nothing is lost"),
}

# `evaluate` is another module where one of these flags is given.
OF_WEIGHTS = re.compile(r"--?(weights|data)(=.*)?")
EVALUATE = """\
xception-jax evaluate --workdir=RUN [--step=best]         measures a checkpoint of a run; its flags are below
xception-jax evaluate --weights=WEIGHTS --data=DATA       measures any weights on labelled images; its flags:
                                                          xception-jax evaluate --weights=WEIGHTS --help
"""


def usage() -> str:
    """The commands, one line each."""
    lines = [f"  {name:15}{what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: xception-jax COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "xception-jax COMMAND --help lists a command's flags; xception-jax --version prints the version.",
        ]
    )


def main() -> None:
    """The program."""
    try:
        try:
            run()
        finally:  # also where absl exits, after --help
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, `head` for one, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run() -> None:
    """Runs the command that the first argument names, as `python -m` runs its module."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "-?", "--helpshort", "--helpfull", "help"):
        print(usage())
        return
    if name == "--version":
        print(f"xception-jax {__version__}")
        return
    name = name.replace("_", "-")
    if name not in COMMANDS:
        print(f'error: unknown command "{name}"; {suggest(name, COMMANDS)}', file=sys.stderr)
        sys.exit(2)
    module, flags, _ = COMMANDS[name]
    if name == "evaluate":
        from xception_jax.cli.common import asks_for_help  # imports absl, which the list of commands does not need

        if any(OF_WEIGHTS.fullmatch(argument) for argument in arguments):
            module, flags = "evaluate", []
        elif asks_for_help(arguments):
            print(EVALUATE)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 as `python -m` does: users name functions of modules in this folder
    called.program = f"xception-jax {name}"
    sys.argv[1:] = [*flags, *arguments]
    runpy.run_module(f"xception_jax.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
