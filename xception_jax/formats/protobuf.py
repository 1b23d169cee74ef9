"""Protocol buffers' wire format (protobuf.dev/programming-guides/encoding): what reading TensorFlow's checkpoints and
writing TensorBoard's events takes. A message is its fields' numbers and values; what they mean the caller knows."""

import struct
from collections.abc import Iterator

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of up to 64 bits at `at`, seven bits a byte, and where it ends.

    Raises:
      ValueError: the data end before the number, or it is longer.
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
    raise ValueError("a number without an end")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: number and value (a whole number, or bytes: a text or a message in turn).

    Raises:
      ValueError: not a message.
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
            raise ValueError(f"a field of unknown kind {kind}")
        if size > len(message) - at:
            raise ValueError("a field that exceeds its message")
        chunk = message[at : at + size]
        yield number, chunk if kind == BYTES else int.from_bytes(chunk, "little")
        at += size


def message(data: bytes, kinds: dict[int, type]) -> dict[int, list]:
    """The values of the fields in `kinds` ({number: int or bytes}), each a list in order; other fields are left out.

    Raises:
      ValueError: not a message, or a field is of another kind.
    """
    found: dict[int, list] = {number: [] for number in kinds}
    for number, value in fields(data):
        if number in kinds:
            if not isinstance(value, kinds[number]):
                raise ValueError(f"field {number} is no {kinds[number].__name__}")
            found[number].append(value)
    return found


def field(number: int, value: int | float | np.float32 | str | bytes) -> bytes:
    """A message's field, to write: a whole number not below 0, a double, a float, a text, or bytes."""
    if isinstance(value, int):
        return _written_varint(number << 3 | VARINT) + _written_varint(value)
    if isinstance(value, np.float32):
        return _written_varint(number << 3 | FIXED32) + struct.pack("<f", value)
    if isinstance(value, float):
        return _written_varint(number << 3 | FIXED64) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return _written_varint(number << 3 | BYTES) + _written_varint(len(data)) + data


def _written_varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that there are more."""
    low = []
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])
