"""What a network says of labelled images.

Shape legend: N images, K classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xception_jax.data import UnreadableImages
from xception_jax.data.files import printable
from xception_jax.data.labelled import Labelled
from xception_jax.errors import UserError
from xception_jax.evaluation.outcome import Outcome
from xception_jax.inference.predictor import Predictor
from xception_jax.models.head import Scores
from xception_jax.tasks.task import SCORES

TINY = 1e-30  # a probability that is rounded to 0


def logits_of(scores: np.ndarray, kind: Scores) -> np.ndarray:
    """Logits that give scores: float64 [N, K]."""
    if kind == "linear":
        return np.asarray(scores, np.float64)
    probabilities = np.clip(np.asarray(scores, np.float64), TINY, None)
    if kind == "softmax":
        return np.log(probabilities)
    return np.log(probabilities) - np.log(np.clip(1 - np.asarray(scores, np.float64), TINY, None))


def of_rows(labelled: Labelled, split: str, rows: np.ndarray, logits: np.ndarray, **more: Any) -> Outcome:
    """The outcome of labelled images, of which a network said `logits`, float [n, K].

    Args:
      labelled: all images.
      split: the name of theirs.
      rows: the positions of these, int [n].
      logits: of these.
      **more: further attributes of `Outcome`.
    """
    return Outcome(
        split,
        tuple(labelled.files[i] for i in rows),
        labelled.task,
        labelled.class_names,
        labelled.targets[rows],
        logits,
        None if labelled.group is None else labelled.group[rows],
        **more,
    )


def outcome(
    predictor: Predictor,
    labelled: Labelled,
    split: str,
    broken: UnreadableImages,
    advance: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """A network's scores for a split of labelled images, whose classes are in the network's order.

    Args:
      predictor: the network.
      labelled: the images.
      split: which of them.
      broken: collects the names of unreadable images.
      advance: called with a number of images after they are predicted.

    Raises:
      UserError: the network is not for this task, or no image could be read.
    """
    given = predictor.pretrained
    if SCORES[labelled.task] != given.scores:
        raise UserError(
            f"the data is for {labelled.task} ({SCORES[labelled.task]} scores), but {given.source} has {given.scores} "
            "scores; --scores says what they are, if the file does not"
        )
    rows = {printable(labelled.root / labelled.files[i]): int(i) for i in labelled.rows(split)}
    kept, scores, deviations = [], [], []
    for prediction in predictor([labelled.root / labelled.files[i] for i in rows.values()], broken):
        kept.append(rows[prediction.file])
        scores.append(prediction.scores)
        deviations.append(prediction.uncertainty)
        advance(1)
    if not kept:
        raise UserError(f'no image of the split "{split}" could be read')
    deviation = np.stack(deviations) if given.uncertainty else None
    return of_rows(labelled, split, np.array(kept), logits_of(np.stack(scores), given.scores), deviation=deviation)
