"""The interface of data sets: labelled images with random access."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """One split of a data set.

    It may have more: `remarks`, sentences that a run says when it opens the split.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """An image, encoded (bytes) or decoded (uint8 [H, W, 3], RGB), and its label, 0 to classes - 1."""

    def example_id(self, index: int) -> str:
        """A name that identifies the example to people.

        Evaluation asks for it right after it has read the example, in the same thread: a source whose records have the
        names in them can keep a thread's last one.
        """
