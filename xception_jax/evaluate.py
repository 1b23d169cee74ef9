"""Measures any weights on labelled images: `python -m xception_jax.evaluate --weights=WEIGHTS --data=DATA`."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from xception_jax import paths
from xception_jax.cli import common, weights_flags
from xception_jax.errors import UserError

USAGE = "usage: python -m xception_jax.evaluate --weights=WEIGHTS --data=DATA [--split=test]"


def define_flags() -> None:
    """The command's flags."""
    weights_flags.define()
    common.define_path("data", None, "A folder, CLASS/IMAGE or SPLIT/CLASS/IMAGE; a table; hf:OWNER/NAME; tfds:NAME.")
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "What to measure; without splits, all images.")
    flags.DEFINE_bool("only_present", False, "Choose among the classes that the split has, as for ImageNet-A and -R.")
    common.define_path("workdir", None, "Where the results are written. Default: runs/evaluation-<data's name>.")
    flags.DEFINE_integer("batch_size", 16, "Images at a time.", lower_bound=1)


def main(arguments: Sequence[str]) -> int:
    """Predicts, measures and writes; returns 1 if images could not be read."""
    flag = flags.FLAGS
    if arguments or not (flag.weights and flag.data):
        raise UserError(USAGE)
    from xception_jax.finetuning import measure
    from xception_jax.parallel import host_memory

    host_memory.reuse_step_memory()
    data = paths.expanded(flag.data)
    workdir = paths.workdir(flag.workdir or Path("runs", f"evaluation-{paths.data_name(data)}"))
    broken = measure.measure(
        weights_flags.load_given(), data, flag.split, workdir, flag.batch_size, only_present=flag.only_present
    )
    return 1 if broken else 0


if __name__ == "__main__":
    common.run(main, define_flags)
