"""Measures any weights on labelled images: `python -m xception_jax.evaluate --weights=WEIGHTS --data=DATA`."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from xception_jax.cli import called, common, weights_flags
from xception_jax.errors import UserError, suggest
from xception_jax.filesystem import paths

USAGE = "--weights=WEIGHTS --data=DATA [--split=test]"
DATA = (
    "A folder, CLASS/IMAGE or SPLIT/CLASS/IMAGE; a table, whose columns --config.data.columns.label=NAME and the like "
    "name; hf:OWNER/NAME; tfds:NAME, which is in --config.data.data_dir."
)
SETTING = r"--?config\.([^=]+)"


def define_flags() -> None:
    """The command's flags."""
    weights_flags.define()
    if any(re.match(SETTING, argument) for argument in sys.argv):
        define_settings()
    common.define_path("data", None, DATA)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "What to measure; without splits, all images.")
    flags.DEFINE_bool("only_present", False, "Choose among the classes that the split has, as for ImageNet-A and -R.")
    common.define_path("workdir", None, "Where the results are written. Default: runs/evaluation-DATA-WEIGHTS.")
    flags.DEFINE_integer("batch_size", 16, "Images at a time.", lower_bound=1)


def define_settings() -> None:
    """The settings of `config.data` that say how data is read. They need jax, which --help does not."""
    from xception_jax.config import default, flatten

    settings = ConfigDict({"data": {"columns": default().data.columns, "data_dir": ""}})
    check_keys(flatten(settings))
    config_flags.DEFINE_config_dict("config", settings, "How data is read.")


def check_keys(known: Iterable[str]) -> None:
    """Raises UserError if a flag is of a setting that is not known; ml_collections would end in a traceback."""
    given = (re.match(SETTING, argument) for argument in sys.argv)
    for key in (found[1].replace("-", "_") for found in given if found):
        if key not in known:
            raise UserError(f"evaluate --weights has no setting config.{key}; {suggest(key, known)}")


def main(arguments: Sequence[str]) -> int:
    """Predicts, measures and writes; returns 1 if images could not be read."""
    flag = flags.FLAGS
    if arguments or not (flag.weights and flag.data):
        raise called.wrong_usage("evaluate", USAGE)
    from xception_jax.data.labelled import columns_from
    from xception_jax.finetuning import measure
    from xception_jax.parallel import host_memory

    host_memory.reuse_step_memory()
    data = paths.expanded(flag.data)
    settings = flag.config.data if "config" in flag else None
    weights = Path(flag.weights)
    of = weights.parent.name if weights.name == "model" else weights.stem  # runs/mine/model
    usual = "-".join(["evaluation", paths.data_name(data), of, *(["present"] if flag.only_present else [])])
    workdir = paths.workdir(flag.workdir or Path("runs", usual))
    broken = measure.measure(
        weights_flags.load_given(),
        data,
        flag.split,
        workdir,
        flag.batch_size,
        columns=columns_from(settings.columns) if settings else None,
        data_dir=settings.data_dir if settings else "",
        only_present=flag.only_present,
    )
    return 1 if broken else 0


if __name__ == "__main__":
    common.run(main, define_flags)
