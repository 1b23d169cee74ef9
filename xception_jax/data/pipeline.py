"""Batches: training batches are a pure function of seed and step; evaluation sees every example exactly once.

Each process makes its own rows of the global batch; concatenated in the order of the processes, they are the batch that
a single process would make. A run can therefore resume from any step, on any number of hosts, without iterator state.
"""

import dataclasses
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import logging

from xception_jax.data.augmentation import Augmentation, random_view
from xception_jax.data.decode import UnreadableImageError, decode
from xception_jax.data.sources.base import Source
from xception_jax.data.storage import Patience
from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.views import Views, central_view, normalize_stain
from xception_jax.tasks.task import task_of

# image uint8 [B, S, S, 3]; label int32 [B], or of several labels or numbers float32 [B, K]; index int32 [B], the
# position in the source; in evaluation mask bool [B].
Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]  # one row of a batch
# Decoded examples that wait for their batch, at most, in a process; beside them are the batches themselves, some three.
READ_AHEAD_BYTES = 512 * 2**20
MOST_TOGETHER = 8  # examples that a thread makes at once


class UnreadableImages:
    """The names of images that could not be read, and why; thread-safe.

    Args:
      most: how many are tolerated; None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self.reasons: dict[str, str] = {}
        self._most = most
        self._lock = threading.Lock()

    @property
    def names(self) -> set[str]:
        """The images."""
        return set(self.reasons)

    def add(self, name: str, reason: str) -> None:
        """Adds an image; logs a warning the first time.

        Raises:
          UserError: more than `most` images are unreadable.
        """
        with self._lock:
            if name in self.reasons:
                return
            if len(self.reasons) == self._most:
                raise UserError(
                    f"image {name} cannot be read ({reason}). With {self._most} others, that is more than "
                    "config.data.max_unreadable allows; repair or remove them, or raise the limit"
                )
            self.reasons[name] = reason
            logging.warning("skipped unreadable image %s: %s", name, reason)


# From an image, encoded or uint8 [H, W, 3], to the network's view of it.
View = Callable[[bytes | np.ndarray], np.ndarray]


class Reader:
    """Reads and decodes examples of a source. Storage that fails for a while is waited for."""

    def __init__(self, source: Source, broken: UnreadableImages):
        self._source, self._broken, self._patience = source, broken, Patience()

    def __call__(self, index: int, view: View) -> tuple[np.ndarray, Any] | None:
        """The view of the image at `index` and its label, or None if the image is unreadable.

        Raises:
          UserError: too many images are unreadable, or a file is gone.
          StorageError: the image cannot be read for now.
        """
        try:
            encoded, label = self._patience(lambda: self._source[index], lambda: self._source.example_id(index))
            return view(encoded), label
        except UnreadableImageError as e:
            self._broken.add(self._source.example_id(index), str(e))
            return None

    def readable(self, index: int, view: View) -> tuple[int, np.ndarray, Any]:
        """The first readable example from `index` on: an unreadable image is replaced by the next in the source.

        Returns:
          The example's index, view and label.
        """
        for offset in range(len(self._source)):
            i = (index + offset) % len(self._source)
            if (example := self(i, view)) is not None:
                return i, *example
        raise UserError(f"none of the {len(self._source)} images can be read; is the data damaged?")


class Order:
    """The example at each position of the endless stream: every epoch has its own permutation.

    With weights, an epoch of N examples has each N w / sum(w) times, rounded down or up by chance (systematic
    resampling): the mean loss over epochs is the weighted one, and an example of weight 0 is never drawn.

    Up to two permutations are kept, at 8 bytes per example: 20 MB for ImageNet.

    Args:
      length: number of examples in the source, N.
      seed: determines the permutation, together with the epoch.
      weights: w, float [N], 0 or more, not all 0; None: all the same.
    """

    def __init__(self, length: int, seed: int, weights: np.ndarray | None = None):
        def permutation(epoch: int) -> np.ndarray:
            rng = np.random.default_rng((seed, epoch))
            shuffled = rng.permutation(length)
            if weights is None:
                return shuffled
            ends = np.cumsum(weights[shuffled], dtype=np.float64)
            marks = (np.arange(length) + rng.random()) * (ends[-1] / length)
            marks = np.minimum(marks, np.nextafter(ends[-1], 0))  # the last may have been rounded up to the end
            drawn = np.searchsorted(ends, marks, side="right")
            return rng.permutation(shuffled[drawn])

        self._length, self._lock = length, threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2)(permutation)  # a batch may span two epochs

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self._length)
        with self._lock:  # otherwise every thread would compute the permutation
            return int(self._permutation(epoch)[offset])


def _training(
    source: Source,
    spec: InputSpec,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    broken: UnreadableImages,
    image_sizes: Callable[[int], int] | None,
) -> grain.MapDataset:
    """The endless stream of training examples, by position.

    A batch's first rows are distinct; those after them repeat them in the same order, so that neighbours differ.
    """
    read, task = Reader(source, broken), task_of(source)
    distinct = -(-batch_size // augmentation.repeats)

    # Faster than Grain's shuffle, which took 6 % of the time per example.
    order = Order(len(source), seed, getattr(source, "weights", None))

    def example(position: int, rng: np.random.Generator) -> Example:
        step, row = divmod(position, batch_size)
        side = spec.image_size if image_sizes is None else image_sizes(step)
        sized = spec if side == spec.image_size else dataclasses.replace(spec, image_size=side)
        view = lambda encoded: random_view(encoded, rng, sized, augmentation)  # noqa: E731
        index, image, label = read.readable(order[step * distinct + row % distinct], view)
        return {"image": image, "label": task.array(label), "index": np.int32(index)}

    return grain.MapDataset.range(sys.maxsize).seed(seed).random_map(example)


def train_batches(
    source: Source,
    spec: InputSpec,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    broken: UnreadableImages,
    image_sizes: Callable[[int], int] | None = None,
    threads: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the training batches of steps `start_step`, `start_step` + 1, ..., without end.

    The stream visits all examples in a new order each epoch and drops none: a batch may span two epochs. With repeats,
    it advances by the batch's distinct examples. A source with `weights` is visited in proportion to them.

    Args:
      source: the training split.
      spec: the network's input; image_size is S, the largest if they differ.
      augmentation: the random transformations.
      batch_size: B, over all processes.
      seed: determines the batches, together with the step.
      start_step: the first step, counted from 0.
      broken: collects the names of unreadable images, which are replaced.
      image_sizes: S by step; None: always that of `spec`.
      threads: number of decoding threads; 0: one per core that this process may use.
      process_index, process_count: select the rows.
    """
    examples = _training(source, spec, augmentation, batch_size, seed, broken, image_sizes)
    rows = Rows(batch_size // process_count, process_index, process_count, start_step)
    endless = sys.maxsize // batch_size
    return _batches(lambda i: examples[rows.position(i)], endless, rows.size, spec.image_size**2 * 3, threads)


def train_batch(
    source: Source,
    spec: InputSpec,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    step: int,
    broken: UnreadableImages,
    image_sizes: Callable[[int], int] | None = None,
) -> Batch:
    """The global training batch of one step. Arguments as in `train_batches`."""
    examples = _training(source, spec, augmentation, batch_size, seed, broken, image_sizes)
    return examples[step * batch_size : (step + 1) * batch_size].batch(batch_size)[0]


def evaluation_batches(
    source: Source,
    spec: InputSpec,
    *,
    batch_size: int,
    broken: UnreadableImages,
    views: Views = central_view,
    names: dict[int, str] | None = None,
    treated: list[str] | None = None,
    threads: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of batches that contain each example once, in order; the last batch is padded.

    `mask` is False for padding and for unreadable images. Arguments as in `train_batches`; `views` makes the view or
    views of an image; `names` collects the names of this process's examples, unreadable ones too, by their position in
    the source; what is done to images that are not ordinary is appended to `treated`, see `decode`. Every process gets
    the same number of batches.
    """
    read, task = Reader(source, broken), task_of(source)
    no_label = task.blank(len(source.class_names))
    blank = views(np.zeros((spec.image_size, spec.image_size, 3), np.uint8), spec)

    def view(encoded: bytes | np.ndarray) -> np.ndarray:
        return views(normalize_stain(decode(encoded, spec.decoding, treated), spec), spec)

    def example(position: int) -> Example:
        seen = read(position, view) if position < len(source) else None
        if names is not None and position < len(source):
            names[position] = source.example_id(position)
        image, label = (blank, no_label) if seen is None else seen
        return {
            "image": image,
            "label": task.array(label),
            "index": np.int32(position),
            "mask": np.bool_(seen is not None),
        }

    rows = Rows(batch_size // process_count, process_index, process_count)
    num_batches = -(-len(source) // batch_size)
    return _batches(lambda i: example(rows.position(i)), num_batches, rows.size, blank.nbytes, threads)


class Rows(NamedTuple):
    """A process's rows of the global batches.

    Attributes:
      size: rows of a batch.
      process_index, process_count: whose.
      start_step: the first batch's step.
    """

    size: int
    process_index: int = 0
    process_count: int = 1
    start_step: int = 0

    def position(self, i: int) -> int:
        """Where in the global stream the process's example i is."""
        step, row = divmod(i, self.size)
        return ((self.start_step + step) * self.process_count + self.process_index) * self.size + row


def _batches(
    example: Callable[[int], Example], num_batches: int, batch_size: int, example_bytes: int, threads: int
) -> Iterator[Batch]:
    """Batches of examples that threads make ahead, as many as two batches and the threads need, or memory allows.

    Some examples of a batch are the unit of work: many cores make the next batch together, not a batch each. OpenCV
    releases the GIL.
    """
    threads = threads or cores()
    ahead = min(2 * (batch_size + threads), READ_AHEAD_BYTES // example_bytes)
    unit = max(1, min(MOST_TOGETHER, batch_size // threads))  # one by one, it would take Python's time
    per_batch = -(-batch_size // unit)

    def part(i: int) -> Batch:
        batch, number = divmod(i, per_batch)
        rows = range(number * unit, min((number + 1) * unit, batch_size))
        return _joined(np.stack, [example(batch * batch_size + row) for row in rows])

    parts = grain.MapDataset.range(num_batches * per_batch).map(part)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(1, ahead // unit))
    batches = parts.to_iter_dataset(options).batch(per_batch, batch_fn=functools.partial(_joined, np.concatenate))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=1))


def _joined(join: Callable[..., np.ndarray], parts: Sequence[Example]) -> Batch:
    """Each column of all parts, stacked or put behind each other."""
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def cores() -> int:
    """The cores that this process may use, which are not all where processes share a host."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
