"""The checksum of TensorFlow's records and LevelDB's tables."""

import google_crc32c


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of bytes in the masked form in which both store it: rotated, with a constant added.

    Format: tensorflow/core/lib/hash/crc32c.h.
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
