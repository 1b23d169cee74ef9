"""Encoded pictures to pixels; JPEG files no further than a view of them needs.

Shape legend: H height, W width of the picture; n the reduction.
"""

import struct
from typing import NamedTuple

import cv2
import numpy as np

try:
    import simplejpeg
except ImportError:  # Where it can't be installed: OpenCV decodes the same pixels, but always all rows.
    simplejpeg = None

REDUCTIONS = (8, 4, 2)  # what a JPEG's 8x8 blocks can be decoded smaller by; the mean of the pixels, about
# Start of frame, by its marker: SOF0 to SOF15 without DHT, JPG and DAC, which are among them.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length


cv2.setNumThreads(0)  # the pipeline's threads each work on a picture of their own


class BrokenPictureError(ValueError):
    """Bytes that are no picture."""


def decode(encoded: bytes | np.ndarray) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP to uint8 [H, W, 3], whatever its colours; an EXIF rotation is not applied.

    Pixels are returned as they are.

    Raises:
      BrokenPictureError: the bytes cannot be decoded.
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    data = np.frombuffer(encoded, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error as e:
        raise BrokenPictureError(str(e)) from None
    if image is None:
        raise BrokenPictureError("it is no JPEG, PNG, WebP or BMP picture, or it is damaged")
    return image


class Header(NamedTuple):
    """What a JPEG file says of its picture.

    Attributes:
      height, width: H and W, in pixels.
      components: 1, 3 or 4 colours.
      height_at: where in the file H stands.
      is_sequential: whether rows follow one another in the file.
    """

    height: int
    width: int
    components: int
    height_at: int
    is_sequential: bool


def read_header(encoded: bytes) -> Header | None:
    """The header of a JPEG file, or None where the bytes are no JPEG, are damaged, or do not tell the height."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in STANDALONE:
            at += 2
        elif marker in FRAMES:
            height, width, components = struct.unpack_from(">HHB", encoded, at + 5)
            return Header(height, width, components, at + 5, marker in SEQUENTIAL) if height and width else None
        else:
            at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
    return None


def decode_top(encoded: bytes, header: Header, rows: int, reduction: int) -> np.ndarray | None:
    """The picture's first rows, in colour, `reduction` times smaller; an EXIF rotation is not applied.

    Args:
      encoded: the file.
      header: its own.
      rows: of the picture, how many are needed.
      reduction: n: 1, 2, 4 or 8.

    Returns:
      uint8 [h, ceil(W / n), 3], RGB, with h at least ceil(rows / n) and at most ceil(H / n), or None where the file is
      damaged. The pixels are those of the whole picture decoded by n.
    """
    if simplejpeg is not None and header.components == 3:
        # A row below decides how its neighbours' colours are interpolated; 2 n of them are enough.
        kept = min(header.height, rows + 2 * reduction)
        data = bytearray(encoded)
        if header.is_sequential:  # otherwise each row is spread over all of the file
            struct.pack_into(">H", data, header.height_at, kept)
        least = (-(-kept // reduction), -(-header.width // reduction)) if reduction > 1 else (0, 0)
        try:
            return simplejpeg.decode_jpeg(data, "RGB", False, False, *least, reduction, strict=False)
        except ValueError:
            return None
    # IMREAD_REDUCED_GRAYSCALE_n is n alone: the colour is IMREAD_COLOR_RGB's.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if reduction > 1:
        flags |= {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
                  8: cv2.IMREAD_REDUCED_GRAYSCALE_8}[reduction]  # fmt: skip
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None
