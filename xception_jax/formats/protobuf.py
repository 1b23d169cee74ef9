"""Protocol buffers' wire format (protobuf.dev/programming-guides/encoding), as far as needed to read TensorFlow's
checkpoints and write TensorBoard's events. A message is a list of field numbers and values; callers interpret them."""

import struct
from collections.abc import Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of up to 64 bits at offset `at`, seven bits per byte, and the offset of its end.

    Raises:
      ValueError: the data ends before the number does, or the number is longer.
    """
    value = 0
    for i in range(10):
        if at + i >= len(data):
            break
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + i + 1
    raise ValueError("a number is not terminated")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: number and value (an integer, or bytes: text or a nested message).

    Raises:
      ValueError: the bytes are not a message.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field has unknown wire type {kind}")
        if size > len(message) - at:
            raise ValueError("a field is longer than its message")
        chunk = message[at : at + size]
        yield number, chunk if kind == BYTES else int.from_bytes(chunk, "little")
        at += size


def message(data: bytes, kinds: dict[int, type]) -> dict[int, list]:
    """The values of the fields in `kinds` ({number: int or bytes}), each a list in order; other fields are skipped.

    Raises:
      ValueError: the bytes are not a message, or a field has another type.
    """
    found: dict[int, list] = {number: [] for number in kinds}
    for number, value in fields(data):
        if number in kinds:
            if not isinstance(value, kinds[number]):
                raise ValueError(f"field {number} does not have type {kinds[number].__name__}")
            found[number].append(value)
    return found


def field(number: int, value: int | float | np.float32 | str | bytes) -> bytes:
    """The encoding of a field: a non-negative integer, a double, a float, text, or bytes."""
    if isinstance(value, int):
        return _written_varint(number << 3 | VARINT) + _written_varint(value)
    if isinstance(value, np.float32):
        return _written_varint(number << 3 | FIXED32) + struct.pack("<f", value)
    if isinstance(value, float):
        return _written_varint(number << 3 | FIXED64) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return _written_varint(number << 3 | BYTES) + _written_varint(len(data)) + data


def _written_varint(value: int) -> bytes:
    """Seven bits per byte, least significant first; the high bit says that more bytes follow."""
    low = []
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])
