"""Trains a classifier of your own images: `python -m xception_jax.finetune --data=DATA --weights=imagenet`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from xception_jax.cli import called, common
from xception_jax.filesystem import paths

USAGE = "--data=DATA [--weights=imagenet] [--workdir=FOLDER]"
CONFIG = Path("configs/finetune.py")


def define_flags() -> None:
    """The command's flags."""
    common.define_config(f"The settings, a file in configs/. Default: {CONFIG}.")
    common.define_path("data", None, "A folder, CLASS/IMAGE or SPLIT/CLASS/IMAGE; a table; hf:OWNER/NAME; tfds:NAME.")
    flags.DEFINE_string("weights", None, "The weights to start from, as for predict; by default imagenet.")
    common.define_path("workdir", None, "Where results are written, and features kept. Default: runs/<data's name>.")


def main(arguments: Sequence[str]) -> int:
    """Fits, reports and says how to use the result."""
    flag = flags.FLAGS
    config = flag.config.copy_and_resolve_references()
    config.data.path = flag.data or config.data.path
    config.model.weights = flag.weights or config.model.weights
    if arguments or not config.data.path:
        raise called.wrong_usage("finetune", USAGE)
    from xception_jax.finetuning import run
    from xception_jax.parallel import host_memory

    host_memory.reuse_step_memory()
    run.finetune(config, paths.workdir(flag.workdir or Path("runs", paths.data_name(config.data.path))))
    return 0


if __name__ == "__main__":
    common.run(main, define_flags, CONFIG)
