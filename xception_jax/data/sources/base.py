"""The interface of data sets: labelled images with random access."""

from typing import Any, Protocol

import numpy as np


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
