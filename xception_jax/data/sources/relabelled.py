"""A split with a run's labels: its classes are matched by name, and what is no label is refused."""

import collections
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from xception_jax.data.decode import UnreadableImageError
from xception_jax.data.sources.base import Source
from xception_jax.errors import UserError

LOOKS = 5  # examples of a split whose labels are looked at when it is opened
MOST_NAMES = 5  # classes named in an error


class Relabelled:
    """A split whose labels are positions in a run's classes, whatever positions the source gives to their names.

    It has everything else that the source has, `fingerprint` for one.

    Args:
      source: the split as its data set has it; it may lack some of the classes.
      class_names: the run's K classes; labels are 0..K-1.
      split: its name in messages.

    Raises:
      UserError: the split has a class that the run does not have, or, now or when an example is read, an example
        without a label.
    """

    def __init__(self, source: Source, class_names: Sequence[str], split: str):
        self.class_names = tuple(class_names)
        self._source, self._split = source, split
        self._labels = self._matched(tuple(source.class_names))
        for index in {(len(source) - 1) * i // (LOOKS - 1) for i in range(LOOKS)} if len(source) else ():
            with contextlib.suppress(OSError, UnreadableImageError):  # reading it later says so
                self[index]

    def _matched(self, theirs: tuple[str, ...]) -> range | list[int]:
        """The run's label of each of the source's labels."""
        if theirs == self.class_names:
            return range(len(theirs))
        counts = collections.Counter(self.class_names)
        labels = {name: i for i, name in enumerate(self.class_names) if counts[name] == 1}
        if unknown := [name for name in theirs if name not in labels]:
            raise UserError(
                f'split "{self._split}" has classes that this run does not know by name: {_listed(unknown)}; the run '
                f"has {_listed(self.class_names)}. Rename the classes of the data, or classify the images without "
                "labels: xception-jax predict --weights=RUN FOLDER"
            )
        return [labels[name] for name in theirs]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        image, label = self._source[index]
        if not 0 <= label < len(self._labels):
            raise UserError(
                f'example {self.example_id(index)} of split "{self._split}" has label {label}, but labels are 0 to '
                f"{len(self._labels) - 1}; splits without labels cannot be used: choose another by "
                "config.data.train_split, .validation_split or .test_split (test_split=validation, say)"
            )
        return image, self._labels[label]

    def example_id(self, index: int) -> str:
        """The source's name of the example."""
        return self._source.example_id(index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nothing of ours, and no endless search before there is a source
            raise AttributeError(name)
        return getattr(self._source, name)


def _listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
