"""Features of a frozen backbone, computed once and kept.

They are found by the image's content, so that images can be added, renamed and moved; what is computed is written every
minute, so that an interrupted pass resumes.

Shape legend: N images, D features.
"""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from xception_jax.data import Source, UnreadableImages
from xception_jax.data.pipeline import cores
from xception_jax.evaluation.report import hash_weights
from xception_jax.filesystem import atomic
from xception_jax.inference.features import FeatureExtractor
from xception_jax.inputs.views import preprocessing_fingerprint
from xception_jax.pretrained import Pretrained
from xception_jax.tasks.task import task_of

SAVE_SECONDS = 60


class Subset:
    """Some examples of a source.

    Args:
      source: all examples.
      rows: positions of these.
    """

    def __init__(self, source: Source, rows: Sequence[int] | np.ndarray):
        self._source, self._rows = source, rows
        self.class_names, self.task = source.class_names, task_of(source).name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[bytes | np.ndarray, int]:
        return self._source[int(self._rows[index])]

    def example_id(self, index: int) -> str:
        """As in the whole source."""
        return self._source.example_id(int(self._rows[index]))


class FeatureStore:
    """Features by the content of images, in files of a folder that is for one backbone and its input.

    Args:
      folder: where stores are.
      backbone: the weights.

    Attributes:
      key: names the backbone and its input.
      computed: how many were added.
    """

    def __init__(self, folder: Path, backbone: Pretrained):
        self.key, self.computed = _key(backbone), 0
        self._folder = folder / self.key
        self._positions: dict[bytes, int] = {}
        self._parts: list[np.ndarray] = []
        for path in sorted(self._folder.glob("*.npz")):
            self._read(path)

    def _read(self, path: Path) -> None:
        """Takes a file's features; a damaged file is removed, and what it had is computed again."""
        try:
            with np.load(path) as file:
                self._take([bytes(digest) for digest in file["digests"]], file["features"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)

    def _take(self, digests: Sequence[bytes], features: np.ndarray) -> None:
        start = sum(map(len, self._parts))
        self._positions |= {digest: start + i for i, digest in enumerate(digests)}
        self._parts.append(features)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._positions

    def add(self, digests: Sequence[bytes], features: np.ndarray) -> None:
        """Adds features, float32 [n, D], and writes them into a file of their own."""
        buffer = io.BytesIO()
        np.savez(
            buffer, digests=np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1), features=features
        )
        name = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
        atomic.write_atomically(self._folder / f"{name}.npz", buffer.getvalue())
        self._take(digests, features)
        self.computed += len(digests)

    def get(self, digests: Sequence[bytes]) -> np.ndarray:
        """The features of images, float32 [n, D]."""
        return np.concatenate(self._parts)[[self._positions[digest] for digest in digests]]


def _key(backbone: Pretrained) -> str:
    """Names the backbone and its input by what determines features."""
    parts = [backbone.model, repr(sorted(backbone.options.items())), hash_weights(backbone.weights)]
    parts.append(preprocessing_fingerprint(backbone.input))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def digests(source: Source) -> list[bytes | None]:
    """A hash of the content of each image, or None if it cannot be read."""

    def digest(index: int) -> bytes | None:
        try:
            image, _ = source[index]
        except OSError:
            return None
        content = image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(digest, range(len(source))))


def features_of(
    source: Source,
    store: FeatureStore,
    extractor: Callable[[], FeatureExtractor],
    broken: UnreadableImages,
    treated: list[str],
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The features of a source's images, of which those that the store does not have are computed.

    Args:
      source: the images.
      store: for the extractor's backbone.
      extractor: makes it; called only if something is to be computed.
      broken: collects the names of unreadable images.
      treated: collects what is done to images that are not ordinary, see `data.decode`.
      advance: called with a number of images after they are computed or found.

    Returns:
      Positions of the readable images in the source, int [N], and their features, float32 [N, D].
    """
    contents = digests(source)
    wanted = {digest: i for i, digest in enumerate(contents) if digest is not None and digest not in store}
    advance(len(contents) - len(wanted))
    if wanted:
        rows = np.array(sorted(wanted.values()))
        _compute(Subset(source, rows), [contents[i] for i in rows], store, extractor(), broken, treated, advance)
    for i, digest in enumerate(contents):
        if digest is None or digest not in store:
            broken.add(source.example_id(i), "it cannot be read")
    kept = np.array([i for i, digest in enumerate(contents) if digest is not None and digest in store], np.int64)
    return kept, store.get([contents[i] for i in kept]) if len(kept) else np.zeros((0, 0), np.float32)


def _compute(
    source: Source,
    contents: Sequence[bytes | None],
    store: FeatureStore,
    extractor: FeatureExtractor,
    broken: UnreadableImages,
    treated: list[str],
    advance: Callable[[int], None],
) -> None:
    """Computes the features of all images of a source, and adds them to the store from time to time."""
    found: list[tuple[bytes, np.ndarray]] = []
    since = time.monotonic()

    def save() -> None:
        if found:
            store.add([digest for digest, _ in found], np.stack([features for _, features in found]))
            found.clear()

    try:
        for positions, features in extractor(source, broken, treated):
            found += [(contents[i], row) for i, row in zip(positions, features, strict=True)]
            advance(len(positions))
            if time.monotonic() - since > SAVE_SECONDS:
                save()
                since = time.monotonic()
    finally:
        save()
