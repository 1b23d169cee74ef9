"""What every data set looks like to the rest of the project: labelled pictures with random access."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """One split of a data set."""

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """How many examples there are."""

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """A picture, encoded (bytes) or as pixels (uint8 [H, W, 3], RGB), and its label, 0 to classes - 1."""

    def example_id(self, index: int) -> str:
        """A name by which people find the example again."""
