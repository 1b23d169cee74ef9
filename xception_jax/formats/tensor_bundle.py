"""Reads tensor bundles (TensorFlow's checkpoints and the `variables` folder of a SavedModel) without TensorFlow.

A bundle is PREFIX.index, a table in LevelDB's format of sorted keys and small messages, and PREFIX.data-00000-of-00001
and so on, which hold the arrays' bytes. The key "" has the header; every other key has an array's dtype, shape and
location. The array `_CHECKPOINTABLE_OBJECT_GRAPH` maps keys to variables by full name, "block1_conv1/kernel".

Formats: TensorFlow's tensor_bundle.proto, trackable_object_graph.proto, core/util/tensor_bundle/tensor_bundle.cc;
LevelDB's doc/table_format.md.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats.crc32c import masked_crc32c
from xception_jax.formats.limits import MAX_NAME, MAX_TENSORS, num_bytes
from xception_jax.formats.protobuf import message, varint

TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_SIZE = 48
MAX_INDEX_SIZE = 64 << 20
OBJECT_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
# Keys that are not variables of the model: the optimizer's state, metrics, counters.
NOT_THE_MODEL = (b"optimizer/", b"keras_api/", b"save_counter/")
SLOT = b"/.OPTIMIZER_SLOT/"
STRING = 7
DTYPES = {
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64, 10: np.bool_,
    14: ml_dtypes.bfloat16, 17: np.uint16, 19: np.float16, 22: np.uint32, 23: np.uint64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array's entry in the index: TensorFlow's number of its dtype, its shape, and the location of its bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def find(path: Path) -> Path | None:
    """The prefix of a bundle, given a SavedModel or checkpoint folder, an index file, or the prefix; None if not found.

    Raises:
      WeightsFileError: the folder has several checkpoints.
    """
    if path.is_dir():
        indices = sorted([*path.glob("variables/variables.index")] or path.glob("*.index"))
        if len(indices) > 1:
            names = ", ".join(p.with_suffix("").name for p in indices[:5])
            raise WeightsFileError(f"{path} has {len(indices)} checkpoints; name one, without .index: {names}")
        return indices[0].with_suffix("") if indices else None
    if path.is_file():
        return path.with_suffix("") if _is_table(path) else None
    index = path.with_name(f"{path.name}.index")
    return path if index.is_file() and _is_table(index) else None


def _is_table(path: Path) -> bool:
    with path.open("rb") as f:
        f.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        return f.read() == TABLE_MAGIC


def read(path: Path) -> dict[str, np.ndarray]:
    """The variables of a model by their full names, "layer/variable", without those of the optimizer.

    In a checkpoint without an object graph (TensorFlow 1), the keys are names: all arrays are returned.

    Args:
      path: as for `find`.

    Raises:
      WeightsFileError: there is no bundle, or it is damaged.
    """
    path = Path(path)
    prefix = find(path)
    if prefix is None:
        raise WeightsFileError(f"{path} has no TensorFlow checkpoint: neither variables/variables.index nor *.index")
    try:
        return _read(prefix)
    except (ValueError, OSError) as e:
        raise e if isinstance(e, WeightsFileError) else WeightsFileError(f"{prefix}.index is damaged: {e}") from None


def _read(prefix: Path) -> dict[str, np.ndarray]:
    index = prefix.with_name(f"{prefix.name}.index")
    if index.stat().st_size > MAX_INDEX_SIZE:
        raise ValueError(f"{index.stat().st_size} bytes are too many for an index")
    rows = dict(_table(index.read_bytes()))
    num_shards = _header(rows.pop(b"", b""))
    entries = {key: _entry(value) for key, value in rows.items()}
    shards = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{num_shards:05d}") for i in range(num_shards)]
    _check_places(entries, shards)
    graph = entries.get(OBJECT_GRAPH)
    names = _names_in_graph(_string(graph, shards), entries) if graph else {key.decode(): key for key in entries}
    return {name: _array(entries[key], shards) for name, key in names.items() if entries[key].dtype != STRING}


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a table, in ascending order of keys."""
    if len(data) < FOOTER_SIZE or data[-8:] != TABLE_MAGIC:
        raise ValueError("it does not end like a table; is the file complete?")
    footer = data[-FOOTER_SIZE:]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    last, seen = None, 0
    for _, value in _block(data, *index):
        for key, row in _block(data, *_handle(value, 0)[0]):
            seen += 1
            if seen > MAX_TENSORS:
                raise ValueError(f"it has more than {MAX_TENSORS} arrays")
            if last is not None and key <= last:
                raise ValueError("its keys are not in order")
            last = key
            yield key, row


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """A block's offset and size, and the offset of the handle's end."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a block. A key begins with `shared` bytes of the previous key."""
    end = offset + size
    if end + 5 > len(data) - FOOTER_SIZE or size < 4:
        raise ValueError("a block is outside the file")
    if int.from_bytes(data[end + 1 : end + 5], "little") != masked_crc32c(data[offset : end + 1]):
        raise ValueError("a block's checksum is wrong")
    if data[end] != 0:
        raise ValueError("its blocks are compressed, which TensorFlow does not do; save it again with TensorFlow")
    block = data[offset:end]
    rows_end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if rows_end < 0:
        raise ValueError("a block has more restarts than bytes")
    key, at = b"", 0
    while at < rows_end:
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or shared + own > MAX_NAME or at + own + length > rows_end:
            raise ValueError("a row is longer than its block")
        key = key[:shared] + block[at : at + own]
        at += own + length
        yield key, block[at - length : at]


def _header(data: bytes) -> int:
    """The number of data files, from a BundleHeaderProto."""
    found = message(data, {1: int, 2: int})
    (num_shards,), endianness = found[1] or [0], found[2] or [0]
    if not 1 <= num_shards <= MAX_TENSORS:
        raise ValueError(f"it states {num_shards} data files")
    if endianness != [0]:
        raise ValueError("its numbers are big-endian; save it again on a little-endian machine")
    return num_shards


def _entry(data: bytes) -> Entry:
    """Parses a BundleEntryProto, which omits zeros."""
    found = message(data, {1: int, 2: bytes, 3: int, 4: int, 5: int, 6: int, 7: bytes})
    if found[7]:
        raise ValueError("an array is split over several entries; save it again unpartitioned")
    dtype, shard, offset, size, crc = ((found[i] or [0])[-1] for i in (1, 3, 4, 5, 6))
    dims = message((found[2] or [b""])[-1], {2: bytes})[2]
    return Entry(dtype, tuple((message(d, {1: int})[1] or [0])[-1] for d in dims), shard, offset, size, crc)


def _check_places(entries: dict[bytes, Entry], shards: list[Path]) -> None:
    """Raises ValueError unless the arrays fill the data files without overlap, and their sizes match their shapes."""
    placed = defaultdict(list)
    for key, e in entries.items():
        if e.shard >= len(shards):
            raise ValueError(f"{key!r} is in data file {e.shard} of {len(shards)}")
        if e.dtype != STRING:
            if e.dtype not in DTYPES:
                raise ValueError(f"{key!r} has TensorFlow's dtype {e.dtype}, which is not supported for weights")
            if num_bytes(e.shape, np.dtype(DTYPES[e.dtype])) != e.size:
                raise ValueError(f"{key!r} has {e.size} bytes, which do not match its shape {list(e.shape)}")
        placed[e.shard].append((e.offset, e.size))
    for i, shard in enumerate(shards):
        if not shard.is_file():
            raise WeightsFileError(f"{shard} is missing; all files of a checkpoint must be in one folder")
        end = 0
        for offset, size in sorted(placed[i]):
            if offset < end:
                raise ValueError("its arrays overlap")
            end = offset + size
        if end != shard.stat().st_size:
            raise WeightsFileError(
                f"{shard} is damaged: it has {shard.stat().st_size} bytes, but its index states {end}"
            )


def _bytes(entry: Entry, shards: list[Path]) -> bytes:
    with shards[entry.shard].open("rb") as f:
        f.seek(entry.offset)
        return f.read(entry.size)


def _array(entry: Entry, shards: list[Path]) -> np.ndarray:
    data = _bytes(entry, shards)
    if masked_crc32c(data) != entry.crc:
        raise WeightsFileError(f"{shards[entry.shard]} is damaged: an array's checksum is wrong")
    return np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)


def _string(entry: Entry, shards: list[Path]) -> bytes:
    """A scalar of dtype string: its length, the length's checksum, its bytes. The entry's checksum covers the length as
    four bytes, its checksum and the bytes."""
    data = _bytes(entry, shards)
    length, at = varint(data, 0)
    if entry.dtype != STRING or entry.shape or len(data) != at + 4 + length:
        raise ValueError("its object graph is not a string")
    if masked_crc32c(length.to_bytes(4, "little") + data[at:]) != entry.crc:
        raise ValueError("its object graph's checksum is wrong")
    return data[at + 4 :]


def _names_in_graph(graph: bytes, entries: dict[bytes, Entry]) -> dict[str, bytes]:
    """The key of each variable of the model by its full name, from a TrackableObjectGraph."""
    names: dict[str, bytes] = {}
    for node in message(graph, {1: bytes})[1]:
        for attribute in message(node, {2: bytes})[2]:
            found = message(attribute, {2: bytes, 3: bytes})
            full_name, key = (b"".join(found[i][-1:]) for i in (2, 3))
            if key.startswith(NOT_THE_MODEL) or SLOT in key:
                continue
            if key not in entries:
                raise ValueError(f"its object graph has {key!r}, but its index does not")
            name = (full_name or key).decode()
            if names.setdefault(name, key) != key:
                raise ValueError(f"two variables are called {name}")
    return names
