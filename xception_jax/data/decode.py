"""Decodes images; of a JPEG file, only the rows and the resolution that a view needs.

Shape legend: H height, W width of the image; n the reduction.
"""

import struct
from typing import NamedTuple

import cv2
import numpy as np

try:
    import simplejpeg
except ImportError:  # fall back to OpenCV, which decodes the same pixels but always all rows
    simplejpeg = None

REDUCTIONS = (8, 4, 2)  # factors by which a JPEG's 8x8 blocks can be decoded smaller, approximately by averaging pixels
# Start-of-frame markers: SOF0 to SOF15, without DHT, JPG and DAC, which share the range.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length


cv2.setNumThreads(0)  # each of the pipeline's threads works on its own image


class UnreadableImageError(ValueError):
    """The bytes are not a readable image."""


def decode(encoded: bytes | np.ndarray) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP or BMP to RGB, uint8 [H, W, 3], from any colour mode; EXIF rotation is not applied.

    Arrays of pixels are returned unchanged.

    Raises:
      UnreadableImageError: the bytes cannot be decoded.
    """
    if isinstance(encoded, np.ndarray):
        return encoded
    data = np.frombuffer(encoded, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error as e:
        raise UnreadableImageError(str(e)) from None
    if image is None:
        raise UnreadableImageError("not a JPEG, PNG, WebP or BMP image, or damaged")
    return image


class Header(NamedTuple):
    """The header of a JPEG file.

    Attributes:
      height, width: H and W, in pixels.
      components: number of colour components, 1, 3 or 4.
      height_at: offset of H in the file.
      is_sequential: whether rows are stored one after another.
    """

    height: int
    width: int
    components: int
    height_at: int
    is_sequential: bool


def read_header(encoded: bytes) -> Header | None:
    """The header of a JPEG file; None if the bytes are not a JPEG, are damaged, or do not contain the height."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # padding
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
    """The image's first rows, in colour, `reduction` times smaller; EXIF rotation is not applied.

    Args:
      encoded: the file.
      header: of the file.
      rows: number of image rows needed.
      reduction: n, one of 1, 2, 4 or 8.

    Returns:
      uint8 [h, ceil(W / n), 3], RGB, with h at least ceil(rows / n) and at most ceil(H / n), or None if the file is
      damaged. The pixels equal those of the whole image decoded with reduction n.
    """
    if simplejpeg is not None and header.components == 3:
        # Colour interpolation also uses the rows below; 2 n of them are enough.
        kept = min(header.height, rows + 2 * reduction)
        data = bytearray(encoded)
        if header.is_sequential:  # otherwise each row is spread over the whole file
            struct.pack_into(">H", data, header.height_at, kept)
        least = (-(-kept // reduction), -(-header.width // reduction)) if reduction > 1 else (0, 0)
        try:
            return simplejpeg.decode_jpeg(data, "RGB", False, False, *least, reduction, strict=False)
        except ValueError:
            return None
    # IMREAD_REDUCED_GRAYSCALE_n sets only the reduction n; IMREAD_COLOR_RGB sets the colour.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if reduction > 1:
        flags |= {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
                  8: cv2.IMREAD_REDUCED_GRAYSCALE_8}[reduction]  # fmt: skip
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        return None
