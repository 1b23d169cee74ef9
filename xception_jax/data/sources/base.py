"""The interface of data sets: labelled images with random access."""

from typing import Any, Protocol

import numpy as np

from xception_jax.errors import UserError, some, suggest
from xception_jax.tasks.task import TASKS


class Source(Protocol):
    """One split of a data set.

    It may have more: `task`, the name of what its labels are for (`tasks.task`), without which it is one class of
    several; `weights`, float [N] of 0 or more, or None: how often training draws each example, relative to the others;
    `remarks`, sentences that a run says when it opens the split.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, Any]:
        """An image, encoded (bytes) or decoded (uint8 [H, W, 3], RGB), and its label.

        Labels are 0 to classes - 1; of several labels, float32 [K], 1, 0, or NaN if it is unknown; of numbers, float32
        [K].
        """

    def example_id(self, index: int) -> str:
        """A name that identifies the example to people.

        Evaluation asks for it right after it has read the example, in the same thread: a source whose records have the
        names in them can keep a thread's last one.
        """


def check_source(source: Any, split: str) -> Source:
    """Returns a split, perhaps of a user's own data set, after checking that it is one.

    Raises:
      UserError: it lacks a part of `Source`, has a task that does not exist, or no examples.
    """
    what = f'split "{split}" is a {type(source).__name__}'
    parts = ("class_names", "__len__", "__getitem__", "example_id")
    if missing := [name for name in parts if not hasattr(source, name)]:
        raise UserError(f"{what} without {some(missing)}; see docs/extending.md for what a data set has")
    if (task := getattr(source, "task", None)) is not None and task not in TASKS:
        raise UserError(f'{what} whose task is "{task}"; {suggest(str(task), TASKS)}')
    if len(source) == 0:
        raise UserError(f"{what} without any examples")
    return source
