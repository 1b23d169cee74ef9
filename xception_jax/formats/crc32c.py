"""The checksum of TensorFlow's records and of LevelDB's tables."""

import google_crc32c


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of bytes in the form in which both are stored: rotated, and a constant added.

    Format: tensorflow/core/lib/hash/crc32c.h.
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
