"""What a picture's file says of itself: its format, size and orientation, read before anything is decoded.

Shape legend: H height, W width of the image as stored.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Start-of-frame markers: SOF0 to SOF15, without DHT, JPG and DAC, which share the range.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)
STANDALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
APP1 = 0xE1
EXIF = b"Exif\0\0"
ORIENTATION, TIFF_WIDTH, TIFF_HEIGHT = 274, 256, 257  # tags of TIFF, and so of EXIF
ROTATED = (1, 8, 3, 6)  # the EXIF orientations of 0 to 3 quarter turns, anticlockwise

FIRST_BYTES = 64  # are enough to tell a format

# First bytes, and the formats that are read.
FORMATS = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM....\0\0\0\0", "BMP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (rb"....ftyp(?:avi[fs]|mi[fa][1f].{0,48}avif)", "AVIF"),
    (rb"P[1-6][ \t\r\n]+[#\d]", "PNM"),
)
# The same for files that are not, and what to do.
UNREAD = (
    (rb"....ftyp(?:he[iv][cmsx]|mif1|msf1)", "a HEIC picture, which is not read; convert it to JPEG or PNG"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture, which is not read; convert it to JPEG or PNG"),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer to a picture that was not downloaded; fetch it with `git lfs pull`",
    ),
    (rb"\s*<(?i:!doctype html|html|head)", "a web page, as servers send in place of a picture that is not there"),
    (rb"\s*<(?i:\?xml|svg)", "an XML file or drawing (SVG), not a picture of pixels"),
    (rb"%PDF", "a PDF document; convert its pages to PNG"),
    (rb"8BPS", "a Photoshop file; convert it to PNG"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"....ftyp", "a film or another kind of MP4 file"),
    (rb"\0+$", "nothing but zeros; copy it again"),
)
_FORMATS, _UNREAD = ([(re.compile(start, re.DOTALL), name) for start, name in table] for table in (FORMATS, UNREAD))


class Header(NamedTuple):
    """The header of a JPEG file.

    Attributes:
      height, width: H and W, in pixels.
      components: number of colour components, 1, 3 or 4.
      height_at: offset of H in the file.
      is_sequential: whether rows are stored one after another.
      orientation: EXIF's, 1 to 8; 1 is upright.
    """

    height: int
    width: int
    components: int
    height_at: int
    is_sequential: bool
    orientation: int


class Size(NamedTuple):
    """H and W in pixels, and EXIF's orientation, 1 to 8."""

    height: int
    width: int
    orientation: int = 1


def picture_format(start: bytes) -> str | None:
    """The format of a file by its FIRST_BYTES, or None if it is none that is read."""
    return next((name for pattern, name in _FORMATS if pattern.match(start)), None)


def reason(encoded: bytes) -> str:
    """Why a file that cannot be decoded is no picture."""
    if not encoded:
        return "the file is empty"
    if (name := picture_format(encoded[:FIRST_BYTES])) is not None:
        return f"{name} picture that is cut off or damaged, or of a kind that is not read"
    for pattern, what in _UNREAD:
        if pattern.match(encoded[:512]):
            return what
    if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]*", encoded[:512]):
        return f"text, not a picture: it begins with {encoded[:20]!r}"
    return f"not a picture: it begins with {encoded[:8]!r}"


def read_header(encoded: bytes) -> Header | None:
    """The header of a JPEG file; None if the bytes are not a JPEG, are damaged, or do not contain the height."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at, orientation = 2, 1
    while at + 9 < len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in STANDALONE:
            at += 2
        elif marker in FRAMES:
            height, width, components = struct.unpack_from(">HHB", encoded, at + 5)
            if not height or not width:
                return None
            return Header(height, width, components, at + 5, marker in SEQUENTIAL, orientation)
        else:
            end = at + 2 + struct.unpack_from(">H", encoded, at + 2)[0]
            if marker == APP1 and encoded.startswith(EXIF, at + 4):
                orientation = _orientation(encoded[at + 4 : end])
            at = end
    return None


def read_size(encoded: bytes, name: str | None) -> Size | None:
    """The size and orientation of a picture of a format other than JPEG; None if it does not say so, or PNM."""
    try:
        return SIZES[name](encoded) if name else None
    except (struct.error, ValueError, IndexError, KeyError):
        return None


def _png(encoded: bytes) -> Size:
    width, height = struct.unpack_from(">II", encoded, 16)
    return Size(height, width, _orientation(_chunk(encoded, b"eXIf", 8, is_png=True)))


def _webp(encoded: bytes) -> Size:
    kind = encoded[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        return Size(height, width, _orientation(_chunk(encoded, b"EXIF", 12, is_png=False)))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return Size(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    width, height = struct.unpack_from("<HH", encoded, 26)
    return Size(height & 0x3FFF, width & 0x3FFF)


def _chunk(encoded: bytes, wanted: bytes, at: int, *, is_png: bool) -> bytes:
    """The contents of the first chunk of a kind in a PNG or a WebP, or nothing."""
    while at + 8 <= len(encoded):
        if is_png:  # length, kind, contents, checksum
            length, kind = struct.unpack_from(">I4s", encoded, at)
            following = at + 8 + length + 4
        else:  # kind, length, contents up to an even length
            kind, length = struct.unpack_from("<4sI", encoded, at)
            following = at + 8 + length + length % 2
        if kind == wanted:
            return encoded[at + 8 : at + 8 + length]
        at = following
    return b""


def _gif(encoded: bytes) -> Size:
    width, height = struct.unpack_from("<HH", encoded, 6)
    return Size(height, width)


def _bmp(encoded: bytes) -> Size:
    (header,) = struct.unpack_from("<I", encoded, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", encoded, 18)
    return Size(abs(height), width)


def _tiff(encoded: bytes) -> Size | None:
    tags = dict(_tags(encoded))
    if TIFF_WIDTH not in tags or TIFF_HEIGHT not in tags:
        return None
    return Size(tags[TIFF_HEIGHT], tags[TIFF_WIDTH], _orientation(encoded))


def _avif(encoded: bytes) -> Size | None:
    """By the boxes `ispe`, of the picture and its parts, and `irot`, its rotation."""
    boxes = encoded[:65536]
    sizes = [struct.unpack_from(">II", boxes, found.end() + 4) for found in re.finditer(b"ispe", boxes)]
    if not sizes:
        return None
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    turns = boxes.find(b"irot")
    return Size(height, width, ROTATED[boxes[turns + 4] & 3] if turns > 0 else 1)


def _jpeg_2000(encoded: bytes) -> Size:
    return Size(*struct.unpack_from(">II", encoded, encoded.index(b"ihdr") + 4))


SIZES: dict[str, Callable[[bytes], Size | None]] = {
    "PNG": _png,
    "WebP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _avif,
    "JPEG 2000": _jpeg_2000,
}


def _orientation(exif: bytes) -> int:
    """The orientation that EXIF data says, 1 to 8; 1 if it says none, or nonsense."""
    try:
        found = dict(_tags(exif.removeprefix(EXIF))).get(ORIENTATION, 1)
    except struct.error:
        return 1
    return found if 1 <= found <= 8 else 1


def _tags(tiff: bytes) -> Iterator[tuple[int, int]]:
    """The tags of TIFF's first directory that are whole numbers, and their (first) values."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        if kind in (3, 4):  # 16 and 32 bits
            yield tag, struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", tiff, entry + 8)[0]
