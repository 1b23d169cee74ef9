"""CRC-32C (Castagnoli), with which TensorFlow's checkpoints are checked, over arrays: 100 MB in about a second.

A CRC is linear, so the bytes are cut into many lanes of equal length, whose CRCs are computed side by side and joined
two by two: crc(A B) = crc(A) times x^(8 |B|), plus crc(B), over GF(2).
"""

import functools

import numpy as np
from jaxtyping import UInt8, UInt32

POLYNOMIAL = 0x82F63B78  # bits reversed
LANES = 1 << 14


@functools.cache
def _byte_table() -> UInt32[np.ndarray, "256"]:
    """The CRC of each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


@functools.cache
def _word_table() -> UInt32[np.ndarray, "65536"]:
    """The CRC of each pair of bytes."""
    table, pairs = _byte_table(), np.arange(1 << 16, dtype=np.uint32)
    once = (pairs >> 8) ^ table[pairs & 0xFF]  # after the first byte; the second is in its lowest bits
    return (once >> 8) ^ table[once & 0xFF]


@functools.lru_cache(maxsize=256)
def _shift_table(power: int) -> UInt32[np.ndarray, "4 256"]:
    """What 2^power zero bytes after it make of a CRC: of each of its four bytes, to be added up."""
    if power == 0:
        identity = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
        return (identity >> 8) ^ _byte_table()[identity & 0xFF]
    half = _shift_table(power - 1)
    return _apply(half, half)


def _apply(table: UInt32[np.ndarray, "4 256"], crc: UInt32[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    return table[0, crc & 0xFF] ^ table[1, crc >> 8 & 0xFF] ^ table[2, crc >> 16 & 0xFF] ^ table[3, crc >> 24]


def _shift(crc: UInt32[np.ndarray, "..."], num_bytes: int) -> UInt32[np.ndarray, "..."]:
    for power in range(num_bytes.bit_length()):
        if num_bytes >> power & 1:
            crc = _apply(_shift_table(power), crc)
    return crc


def crc32c(data: bytes | UInt8[np.ndarray, "N"]) -> int:
    """The CRC-32C of bytes."""
    x = np.frombuffer(data, np.uint8)
    # Zero bytes in front leave a CRC that begins with zero as it is; the ones it should begin with are added below.
    lanes = LANES if len(x) >= 2 * LANES else 1
    length = -(-len(x) // (2 * lanes)) * 2
    padded = np.zeros(lanes * length, np.uint8)
    padded[len(padded) - len(x) :] = x
    pairs, table = padded.view("<u2").reshape(lanes, -1).T.copy(), _word_table()
    crc = np.zeros(lanes, np.uint32)
    for pair in pairs:
        crc = (crc >> 16) ^ table[(crc & 0xFFFF) ^ pair]
    while len(crc) > 1:
        crc = _shift(crc[::2], length) ^ crc[1::2]
        length *= 2
    ones = _shift(np.full(1, 0xFFFFFFFF, np.uint32), len(x))
    return int(crc[0] ^ ones[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which LevelDB and TensorFlow keep a CRC."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
