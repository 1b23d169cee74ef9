"""Data sets that need no files: handwritten digits from scikit-learn, and synthetic images."""

import functools
import zlib
from typing import Any

import numpy as np

from xception_jax.errors import UserError, needs, suggest
from xception_jax.tasks.task import MULTI_LABEL, SINGLE_LABEL, TaskName

# Where each split begins and ends in a fixed random order of the 1,797 digits.
DIGITS_SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with needs("train", 'data set "digits"'):
        from sklearn.datasets import load_digits  # takes a second to import, and is needed only here

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return pixels[order], labels[order].astype(np.int32), order


class Digits:
    """8 x 8 handwritten digits (UCI, Alpaydin and Kaynak 1998): 1,257 for training, 180 validation, 360 test.

    Raises:
      UserError: unknown split.
    """

    class_names = tuple("0123456789")

    def __init__(self, split: str):
        if split not in DIGITS_SPLITS:
            raise UserError(f'digits has no split "{split}"; {suggest(split, DIGITS_SPLITS)}')
        rows = slice(*DIGITS_SPLITS[split])
        self._images, self._labels, self._order = (x[rows] for x in _digits())

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.repeat(self._images[index][:, :, None], 3, axis=2), int(self._labels[index])

    def example_id(self, index: int) -> str:
        """The digit's position in scikit-learn's table."""
        return f"digits/{self._order[index]}"


class Synthetic:
    """Random images with random labels of a task, a function of split and position: for benchmarks and tests."""

    def __init__(
        self, split: str, num_examples: int, num_classes: int, image_size: int, task: TaskName = SINGLE_LABEL.name
    ):
        self.class_names = tuple(f"class{i}" for i in range(num_classes))
        self.task = task
        self._split, self._length, self._size = split, num_examples, image_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        rng = np.random.default_rng((zlib.crc32(self._split.encode()), index))
        label = self._label(rng)
        return rng.integers(0, 256, (self._size, self._size, 3), np.uint8), label

    def _label(self, rng: np.random.Generator) -> Any:
        k = len(self.class_names)
        if self.task == SINGLE_LABEL.name:
            return int(rng.integers(k))
        return (rng.integers(0, 2, k) if self.task == MULTI_LABEL.name else rng.standard_normal(k)).astype(np.float32)

    def example_id(self, index: int) -> str:
        """The split and position."""
        return f"{self._split}/{index}"
