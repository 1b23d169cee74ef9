"""Measures trained weights on labelled images that need not be those of a run."""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.data import UnreadableImages
from xception_jax.data.labelled import Labelled, check_classes, open_labelled
from xception_jax.data.labelled.columns import Columns
from xception_jax.data.labelled.images import reordered
from xception_jax.data.labelled.opening import ALL_TEST
from xception_jax.data.labelled.saving import splits_of
from xception_jax.errors import UserError
from xception_jax.evaluation import conformal
from xception_jax.evaluation import outcome as outcome_lib
from xception_jax.evaluation.analysis import analyse
from xception_jax.evaluation.page import Measured, Report, write_page
from xception_jax.evaluation.report import hash_weights
from xception_jax.filesystem import atomic, paths, table_files
from xception_jax.finetuning.results import PAGE, RESULTS, TABLE, common_facts, said, short, show_unreadable
from xception_jax.inference.mistakes import mistakes
from xception_jax.inference.outcomes import outcome
from xception_jax.inference.predictor import Predictor
from xception_jax.inputs.views import preprocessing_fingerprint
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained.transplant import with_classes
from xception_jax.tasks.task import SINGLE_LABEL, TASKS
from xception_jax.terminal.console import progress
from xception_jax.workdir import identity


def measure(
    pretrained: Pretrained,
    data: Path,
    split: str,
    workdir: Path,
    batch_size: int,
    *,
    columns: Columns | None = None,
    data_dir: str = "",
    only_present: bool = False,
) -> Mapping[str, str]:
    """Writes and prints the figures of weights on labelled images; classes are the same if their names are.

    Writes results.json, predictions-<split>.csv and index.html.

    Args:
      pretrained: the weights, with class names.
      data: as for `open_labelled`.
      split: what is measured.
      workdir: where results are written.
      batch_size: images at a time.
      columns, data_dir: as for `open_labelled`.
      only_present: whether the network chooses among the classes that the split has, not among all of its own.

    Returns:
      The unreadable images, and why.

    Raises:
      UserError: the data is invalid, is for another task, or has classes that the network does not have.
    """
    weights_hash = hash_weights(pretrained.weights)
    labelled = _labelled(pretrained, data, columns, data_dir)
    for sentence in labelled.remarks:
        print(sentence)
    rows = labelled.rows(split)
    if known := _known(Path(pretrained.source), labelled, rows):
        print(known)
    if not len(rows):
        raise UserError(f'{data} has no images of the split "{split}"; choose another by --split')
    if only_present:
        labelled, pretrained = _among_present(labelled, pretrained, split)
    broken = UnreadableImages()
    predictor = Predictor(pretrained, batch_size=min(batch_size, len(rows)))
    with progress("images") as bar:
        task = bar.add_task("", total=len(rows))
        found = outcome(predictor, labelled, split, broken, lambda count: bar.advance(task, count))
    analysis = analyse(found)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights": pretrained.source,
        "weights_hash": weights_hash,
        "data": str(data),
        "only_present": only_present,
        "task": labelled.task,
        "class_names": list(labelled.class_names),
        "unreadable": dict(sorted(broken.reasons.items())),
        "preprocessing": preprocessing_fingerprint(pretrained.input),
        "splits": {split: short(analysis)},
        **identity.environment(),
    }
    if (sets := pretrained.conformal) is not None:
        record["conformal"] = dataclasses.asdict(sets) | {split: conformal.measure(found, sets.threshold)}
        print(f"prediction sets: {conformal.said(record['conformal'], split)}")
    atomic.write_atomically(workdir / RESULTS, json.dumps(record, indent=2, allow_nan=False) + "\n")
    table_files.write_table(workdir / f"predictions-{split}.csv", outcome_lib.columns(found))
    shown = mistakes(pretrained, labelled.root, found)
    title = f"{paths.data_name(data)}: {pretrained.source}"
    about = [*facts(record, pretrained, split), *(("Data", said) for said in (*labelled.remarks, known) if said)]
    write_page(workdir / PAGE, Report(title, [Measured(found, analysis)], about, (), shown))
    for name, figure in analysis["figures"].items():
        print(f"{name.replace('_', ' ')}: {said(figure)}")
    show_unreadable(broken)
    print(f"{len(found.files):,} images; see {workdir / PAGE}")
    return broken.reasons


def _known(weights: Path, labelled: Labelled, rows: np.ndarray) -> str:
    """What is to be said if images are among those that fine-tuned weights were trained and chosen on; "" if not."""
    table = weights.parent / TABLE
    there = {file for file, split in splits_of(table).items() if split != "test"} if table.is_file() else set()
    count = sum(labelled.root / labelled.files[i] in there for i in rows)
    if not count:
        return ""
    return (
        f"{count:,} of these {len(rows):,} images are among those that the weights were trained or chosen on, so that "
        f"the figures are too good; --data={table} measures the test split"
    )


def _among_present(labelled: Labelled, pretrained: Pretrained, split: str) -> tuple[Labelled, Pretrained]:
    """The images of a split, and the network, with the classes that it has alone.

    Raises:
      UserError: these are less than two, or it is not about one class of several.
    """
    if labelled.task != SINGLE_LABEL.name:
        raise UserError(f"--only_present is for one class of several, but {pretrained.source} is for {labelled.task}")
    labelled = labelled.only(split)
    present = np.unique(labelled.targets)
    if len(present) < 2:
        raise UserError(
            f'all images of the split "{split}" are of the class "{labelled.class_names[present[0]]}", so that with '
            "--only_present there is nothing to choose; leave it out"
        )
    print(f"The network chooses among the {len(present):,} classes that the split {split} has.")
    return reordered(labelled, [labelled.class_names[k] for k in present]), with_classes(pretrained, present)


def _labelled(pretrained: Pretrained, data: Path, columns: Columns | None, data_dir: str) -> Labelled:
    """The images, with the network's classes.

    What the labels look like may be more than one task's: they are read as the network's, if they can be.
    """
    if not pretrained.class_names:
        raise UserError(f"{pretrained.source} has no class names; give them by --classes=FILE, one per line")
    task = next(task for task in TASKS.values() if task.scores == pretrained.scores)
    opened = functools.partial(open_labelled, data, columns, fractions=ALL_TEST, data_dir=data_dir)
    try:
        return check_classes(opened(task=task.name), pretrained.class_names)
    except UserError:
        if (looks := TASKS[opened().task]) is task:
            raise
        raise UserError(
            f"{data} is for {looks.name}: its images have {looks.means}; but {pretrained.source} has {task.scores} "
            f"scores, for {task.means}. Measure weights that were trained for it (xception-jax finetune --data={data}) "
            f"or, if the file does not say what its scores are, give --scores={looks.scores}"
        ) from None


def facts(record: Mapping[str, Any], pretrained: Pretrained, split: str) -> list[tuple[str, str]]:
    """What was measured, for people."""
    return [
        ("Weights", record["weights"]),
        ("Hash of the weights", record["weights_hash"][:16]),
        ("Data", record["data"]),
        *([("Classes", f"those of the split, {len(record['class_names']):,}")] if record["only_present"] else []),
        *([("Prediction sets", conformal.said(record["conformal"], split))] if "conformal" in record else []),
        *common_facts(pretrained, record),
    ]
