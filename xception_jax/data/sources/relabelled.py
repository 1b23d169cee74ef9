"""A split with a run's labels: its classes are matched by name, and what is no label is refused."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from xception_jax.data.decode import UnreadableImageError, check_pixels
from xception_jax.data.sources.base import Source
from xception_jax.errors import UserError
from xception_jax.tasks.task import task_of

LOOKS = 5  # examples of a split that are looked at when it is opened


class Relabelled:
    """A split whose labels are positions in a run's classes, whatever positions the source gives to their names.

    It has everything else that the source has, `fingerprint` for one.

    Args:
      source: the split as its data set has it; it may lack some of the classes.
      class_names: the run's K classes.
      split: its name in messages.

    Raises:
      UserError: the split has a class that the run does not have, or, now or when an example is read, an example
        without a label or with pixels of another kind.
    """

    def __init__(self, source: Source, class_names: Sequence[str], split: str):
        self.class_names = tuple(class_names)
        self._source, self._split = source, split
        try:
            self._label = task_of(source).matched(tuple(source.class_names), self.class_names)
        except UserError as e:
            raise UserError(f'split "{split}" {e}') from None
        for index in {(len(source) - 1) * i // (LOOKS - 1) for i in range(LOOKS)} if len(source) else ():
            with contextlib.suppress(OSError, UnreadableImageError):  # reading it later says so
                image, _ = self[index]
                if not isinstance(image, bytes):
                    check_pixels(image)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, Any]:
        image, label = self._source[index]
        try:
            return image, self._label(label)
        except UserError as e:
            raise UserError(f'example {self.example_id(index)} of split "{self._split}" {e}') from None

    def example_id(self, index: int) -> str:
        """The source's name of the example."""
        return self._source.example_id(index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nothing of ours, and no endless search before there is a source
            raise AttributeError(name)
        return getattr(self._source, name)
