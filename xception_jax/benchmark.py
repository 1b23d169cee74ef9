"""How fast this is, here: `python -m xception_jax.benchmark --what=train,infer --against=timm --json=FILE`.

Every figure is a median over rounds, with its range. Peers do the same work in the same run, in turns with ours, each
in a process of its own; a `ratio` above 1 says how many times faster we are.
"""

import ast
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from xception_jax.benchmarking.subjects import PEERS, SUBJECTS, Runner, Settings, variants_of
from xception_jax.cli import called, common
from xception_jax.errors import UserError, suggest
from xception_jax.filesystem import atomic

USAGE = "[--model=NAME] [--what=SUBJECT,...] [--against=PEER,...] [--json=FILE]"


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", "xception", "One of list_models().")
    flags.DEFINE_integer("batch", 8, "Images per step, on all devices together.", lower_bound=1)
    flags.DEFINE_integer("image_size", 299, "Pixels.", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What layers compute in.")
    flags.DEFINE_list("what", ["train", "infer"], f"Subjects: {', '.join(SUBJECTS)}.")
    flags.DEFINE_list("against", [], f"Peers: {', '.join(PEERS)}.")
    flags.DEFINE_string("peer_python", sys.executable, "The interpreter that has the peers' libraries.")
    flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
    flags.DEFINE_list("options", [], "The network's options, such as width=0.05,stem=small.")
    flags.DEFINE_string("only", "", "operators: those with this text in their name.")
    flags.DEFINE_string("lowerings", None, "operators: a table of lowerings to put the result into.")
    flags.DEFINE_string("data", "", "input: a folder of JPEG files; by default images are generated.")
    common.define_path("json", None, "A file to write everything to.")


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and writes; returns 1 if something of ours could not be measured."""
    if arguments:
        raise called.wrong_usage("benchmark", USAGE)
    from xception_jax.benchmarking import lowerings, output  # import jax, which --help does not need

    settings, subjects = read_flags()
    runner = Runner(settings)
    runner.measure_machine()
    command = shlex.join(["python", "-m", "xception_jax.benchmark", *sys.argv[1:]])
    rows: list[dict[str, Any]] = []

    def record() -> dict[str, Any]:
        return output.record(rows, runner.machine, dataclasses.asdict(settings), command)

    for what in subjects:
        for row in SUBJECTS[what](runner):
            print(f"measured {row['what']} {row['name']} {row.get('direction', '')}", file=sys.stderr)
            rows.append(row)
            if flags.FLAGS.json:  # after each row: a run that is stopped keeps what it has
                atomic.write_atomically(Path(flags.FLAGS.json), json.dumps(record(), indent=2) + "\n")
    output.show(rows, runner.machine)
    if output.failed(rows):
        return 1
    if flags.FLAGS.lowerings:
        lowerings.update(Path(flags.FLAGS.lowerings), record())
    return 0


def read_flags() -> tuple[Settings, list[str]]:
    """The flags, checked, and the subjects.

    Raises:
      UserError: one has a value that it cannot have.
    """
    flag = flags.FLAGS
    for subject in flag.what:
        if subject not in SUBJECTS:
            raise UserError(f'unknown --what "{subject}"; {suggest(subject, SUBJECTS)}')
    for peer in flag.against:
        variants_of(peer)
    work = ("batch", "image_size", "dtype", "options", "only")
    changed = [f"--{name}" for name in work if flag[name].value != flag[name].default]
    if flag.lowerings and (flag.what != ["operators"] or changed):
        instead = f", without {', '.join(changed)}" if changed else ""
        raise UserError(f"--lowerings needs --what=operators alone{instead}: the table is of the whole network")
    settings = Settings(
        model=flag.model,
        batch=flag.batch,
        image_size=flag.image_size,
        dtype=flag.dtype,
        options=dict(map(read_option, flag.options)),
        against=tuple(flag.against),
        peer_python=flag.peer_python,
        rounds=flag.rounds,
        only=flag.only,
        data=flag.data,
    )
    from xception_jax.models import check_options  # imports jax, which --help does not need

    check_options(settings.model, settings.options)
    return settings, flag.what


def read_option(text: str) -> tuple[str, Any]:
    """`width=0.05` as ("width", 0.05); what is not a Python literal is a string.

    Raises:
      UserError: it has no value.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f'--options has "{text}"; write name=value')
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


if __name__ == "__main__":
    common.run(main, define_flags)
