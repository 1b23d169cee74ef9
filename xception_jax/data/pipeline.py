"""Batches: of training, a pure function of seed and step; of evaluation, every example exactly once.

Each process makes its own rows of the global batch; together, in the order of the processes, they are the batch that a
single process would make. So a run goes on from any step, on any number of hosts, without iterator state.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import logging

from xception_jax.data.augmentation import Augmentation, random_view
from xception_jax.data.decode import BrokenPictureError, decode
from xception_jax.data.sources.base import Source
from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec
from xception_jax.inputs.views import Views, central_view, normalize_stain

# image uint8 [B, S, S, 3]; label int32 [B]; index int32 [B], the position in the source; in evaluation mask bool [B].
Batch = dict[str, np.ndarray]
Example = dict[str, np.ndarray | np.generic]  # a row of it


class BrokenPictures:
    """The names of pictures that could not be decoded; safe to share between threads.

    Args:
      most: how many there may be; None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self.names: set[str] = set()
        self._most = most
        self._lock = threading.Lock()

    def add(self, name: str, reason: str) -> None:
        """Adds a picture, and warns of it the first time.

        Raises:
          UserError: it is one too many.
        """
        with self._lock:
            if name in self.names:
                return
            if len(self.names) == self._most:
                raise UserError(
                    f"picture {name} cannot be read ({reason}), nor can {self._most} others, which is as many as "
                    "config.data.max_unreadable allows; mend or remove them, or raise it"
                )
            self.names.add(name)
            logging.warning("skipped broken picture %s: %s", name, reason)


# From a picture, encoded or uint8 [H, W, 3], to what is seen of it.
View = Callable[[bytes | np.ndarray], np.ndarray]


class Reader:
    """Reads and decodes examples of a source."""

    def __init__(self, source: Source, broken: BrokenPictures):
        self._source, self._broken = source, broken

    def __call__(self, index: int, view: View) -> tuple[np.ndarray, int] | None:
        """The view of the picture at `index` and its label, or None where the picture is broken.

        Raises:
          UserError: it is, and one too many.
        """
        try:
            picture, label = self._source[index]
            return view(picture), label
        except (BrokenPictureError, OSError) as e:
            self._broken.add(self._source.example_id(index), str(e))
            return None

    def readable(self, index: int, view: View) -> tuple[int, np.ndarray, int]:
        """The first readable example from `index` on: a broken picture is replaced by the next in the source.

        Returns:
          Its index, view and label.
        """
        for offset in range(len(self._source)):
            i = (index + offset) % len(self._source)
            if (example := self(i, view)) is not None:
                return i, *example
        raise UserError(f"none of the {len(self._source)} pictures can be read; is the data damaged?")


class Order:
    """Which example stands at a position of the endless stream: every epoch is a permutation of its own.

    Up to two permutations are kept, of 8 bytes an example: 20 MB for ImageNet.

    Args:
      length: examples in the source.
      seed: with the epoch, decides the permutation.
    """

    def __init__(self, length: int, seed: int):
        def permutation(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(length)

        self._length, self._lock = length, threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2)(permutation)  # a batch may cross two epochs

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self._length)
        with self._lock:  # or every thread would make an epoch's permutation
            return int(self._permutation(epoch)[offset])


def _training(
    source: Source, spec: InputSpec, augmentation: Augmentation, batch_size: int, seed: int, broken: BrokenPictures
) -> grain.MapDataset:
    """The endless stream of training batches, by position."""
    read = Reader(source, broken)

    order = Order(len(source), seed)  # quicker than Grain's shuffle, which took 6 % of an example's time

    def example(position: int, rng: np.random.Generator) -> Example:
        view = lambda picture: random_view(picture, rng, spec, augmentation)  # noqa: E731
        index, image, label = read.readable(order[position], view)
        return {"image": image, "label": np.int32(label), "index": np.int32(index)}

    return grain.MapDataset.range(sys.maxsize).seed(seed).random_map(example).batch(batch_size)


def train_batches(
    source: Source,
    spec: InputSpec,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    broken: BrokenPictures,
    threads: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the training batches of step `start_step`, `start_step` + 1 and so on, without end.

    The stream runs through all examples in a new order each epoch and drops none: a batch may cross two epochs.

    Args:
      source: the training split.
      spec: what the network expects of its pictures; image_size is S.
      augmentation: what is drawn for each picture.
      batch_size: B, of all processes together.
      seed: with the step, decides the batch.
      start_step: the first step, from 0.
      broken: collects the pictures that were replaced.
      threads: that decode; 0: as many as cores.
      process_index, process_count: which rows.
    """
    batches = _training(source, spec, augmentation, batch_size // process_count, seed, broken)
    mine = batches[process_index + start_step * process_count :: process_count]
    return _threaded(mine, threads)


def train_batch(
    source: Source,
    spec: InputSpec,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    step: int,
    broken: BrokenPictures,
) -> Batch:
    """The whole training batch of one step. Arguments as in `train_batches`."""
    return _training(source, spec, augmentation, batch_size, seed, broken)[step]


def evaluation_batches(
    source: Source,
    spec: InputSpec,
    *,
    batch_size: int,
    broken: BrokenPictures,
    views: Views = central_view,
    threads: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's rows of the batches that hold each example once, in order; the last one is padded.

    `mask` is False in rows that are padding or whose picture is broken. Arguments as in `train_batches`; `views` makes
    what is seen of a picture. Every process gets the same number of batches.
    """
    read = Reader(source, broken)
    blank = views(np.zeros((spec.image_size, spec.image_size, 3), np.uint8), spec)

    def view(picture: bytes | np.ndarray) -> np.ndarray:
        return views(normalize_stain(decode(picture), spec), spec)

    def example(position: int) -> Example:
        seen = read(position, view) if position < len(source) else None
        image, label = (blank, 0) if seen is None else seen
        return {
            "image": image,
            "label": np.int32(label),
            "index": np.int32(position),
            "mask": np.bool_(seen is not None),
        }

    num_batches = -(-len(source) // batch_size)
    batches = grain.MapDataset.range(num_batches * batch_size).map(example).batch(batch_size // process_count)
    return _threaded(batches[process_index::process_count], threads)


def _threaded(batches: grain.MapDataset, threads: int) -> Iterator[Batch]:
    """Iterates with threads that work ahead; OpenCV releases the interpreter's lock."""
    threads = threads or os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batches.to_iter_dataset(options))
