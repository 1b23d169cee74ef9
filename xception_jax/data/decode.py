"""Decodes images; of a JPEG file, only the rows and the resolution that a view needs.

Shape legend: H height, W width of the image; n the reduction.
"""

import struct
from typing import Any

import cv2
import numpy as np
import simplejpeg
from absl import logging

from xception_jax.data.headers import FIRST_BYTES, Header, picture_format, read_header, read_size, reason
from xception_jax.errors import UserError
from xception_jax.inputs.spec import Decoding

REDUCTIONS = (8, 4, 2)  # factors by which a JPEG's 8x8 blocks can be decoded smaller, approximately by averaging pixels
END = b"\xff\xd9"  # of a JPEG
COLOUR_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
# EXIF orientations as what makes a picture upright: rows and columns exchanged, then each perhaps reversed.
EXCHANGED, ROWS_REVERSED, COLUMNS_REVERSED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
USUAL = Decoding()
INVERSE = {6: 8, 8: 6}  # orientations that do not undo themselves
# What is done to pictures that are not ordinary, as certificates count it.
TURNED, OVERLAID, SCALED = "turned upright", "put on the background", "scaled from more than 8 bits"

cv2.setNumThreads(0)  # each of the pipeline's threads works on its own image
# OpenCV 4's name or 5's. It is silent, as unreadable images are listed with our reasons.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)


class UnreadableImageError(ValueError):
    """The bytes are not a readable image."""


def decode(encoded: bytes | np.ndarray, rules: Decoding = USUAL, treated: list[str] | None = None) -> np.ndarray:
    """Decodes a picture to RGB, uint8 [H, W, 3], from any format, colour mode and depth in docs/pictures.md.

    Args:
      encoded: the file; or the pixels, uint8 [H, W, 3], RGB, which are returned unchanged.
      rules: how it becomes pixels.
      treated: what was done to a picture that is not ordinary is appended: TURNED, OVERLAID or SCALED.

    Raises:
      UnreadableImageError: the bytes cannot be decoded, or are of a larger picture than `rules` allow.
      UserError: this is neither a file nor such pixels, but what a data set of one's own may give.
    """
    if not isinstance(encoded, bytes):
        return check_pixels(encoded)
    treated = [] if treated is None else treated
    name = picture_format(encoded[:FIRST_BYTES])
    if name == "JPEG":
        header = read_header(encoded)
        if header is not None:
            check_size(header.height, header.width, rules)
            encoded = ended(encoded, header)
        image = _imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        orientation = 1 if header is None else header.orientation
    else:
        size = read_size(encoded, name)
        if size is not None:
            check_size(size.height, size.width, rules)
        image = _of_any_depth(encoded, name, rules, treated)
        orientation = 1 if size is None else size.orientation
    if image is None:
        raise UnreadableImageError(reason(encoded))
    if orientation == 1:
        return image
    if rules.orientation:
        treated.append(TURNED)
        return image if name == "TIFF" else upright(image, orientation)  # OpenCV has turned TIFF already
    return upright(image, INVERSE.get(orientation, orientation)) if name == "TIFF" else image


def check_pixels(image: Any) -> np.ndarray:
    """Returns what a data set gives for pixels, after a check: others would be trained on as if they were 0 to 255."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
    raise UserError(
        f"the data set gives {found} for an image; it must give the bytes of the file, or pixels, uint8 [H, W, 3], RGB"
    )


def _imdecode(encoded: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV decodes, or None."""
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:
        return None


def check_size(height: int, width: int, rules: Decoding) -> None:
    """Raises UnreadableImageError if a picture is larger than allowed; it is not decoded then."""
    if height * width > rules.max_pixels:
        raise UnreadableImageError(
            f"{height:,} x {width:,} are {height * width:,} pixels, more than max_pixels ({rules.max_pixels:,}) allows"
        )


def ended(encoded: bytes, header: Header) -> bytes:
    """A JPEG file with its end marker, which is added if it lacks nothing else.

    Raises:
      UnreadableImageError: the file is cut off in its pixels. Decoders would fill the rest with grey, or refuse it.
    """
    if encoded.rfind(END, header.height_at) >= 0:  # EXIF data before the header may hold a whole thumbnail
        return encoded
    try:
        simplejpeg.decode_jpeg(encoded + END, COLOUR_SPACES.get(header.components, "RGB"), strict=True)
    except ValueError:
        raise UnreadableImageError("a JPEG picture that is cut off: its last rows are missing") from None
    return encoded + END


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image, uint8 [H, W, 3], turned upright from an EXIF orientation, 1 to 8; [W, H, 3] from 5 to 8."""
    if orientation == 1:
        return image
    if orientation in EXCHANGED:
        image = cv2.transpose(image)
    rows, columns = orientation in ROWS_REVERSED, orientation in COLUMNS_REVERSED
    return cv2.flip(image, -1 if rows and columns else 0 if rows else 1) if rows or columns else image


def _of_any_depth(encoded: bytes, name: str | None, rules: Decoding, treated: list[str]) -> np.ndarray | None:
    """Decodes what is no JPEG, which may be transparent or have more than 8 bits, to uint8 [H, W, 3]."""
    image = _imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if image is None:  # grey JPEG 2000 with transparency, for one
        return _imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    is_deep = image.dtype != np.uint8
    colours, alpha = (image[..., :3], image[..., 3]) if image.ndim == 3 and image.shape[2] == 4 else (image, None)
    if is_deep:
        treated.append(SCALED)
        colours = _eight_bits(colours, rules)
        alpha = None if alpha is None else _eight_bits(alpha, Decoding(white=np.iinfo(alpha.dtype).max))
    colours = cv2.cvtColor(colours, cv2.COLOR_GRAY2RGB if colours.ndim == 2 else cv2.COLOR_BGR2RGB)
    if alpha is None or alpha.min() == 255:
        return colours
    treated.append(OVERLAID)
    opacity = alpha[..., None].astype(np.int32)
    if name != "TIFF" or is_deep:  # libtiff has multiplied colours of 8 bits already
        colours = (colours * opacity + 127) // 255
    behind = (np.array(rules.background, np.int32) * (255 - opacity) + 127) // 255
    return np.minimum(colours + behind, 255).astype(np.uint8)


def _eight_bits(image: np.ndarray, rules: Decoding) -> np.ndarray:
    """Pixels of any other type as uint8, by the value of white."""
    least, most = image.min(), image.max()
    if rules.white is None and np.issubdtype(image.dtype, np.floating):
        if not (least >= 0 and most <= 1):
            raise UnreadableImageError(
                f"its pixels are floats from {least:g} to {most:g}, not 0 to 1; set `white`, or convert it to 16 bits"
            )
        return np.rint(image * 255).astype(np.uint8)
    if rules.white is not None:
        by = 255 / rules.white if np.issubdtype(image.dtype, np.floating) else 256 / (rules.white + 1)
        return np.clip(image.astype(np.float32) * np.float32(by), 0, 255).astype(np.uint8)
    if least < 0:
        raise UnreadableImageError(f"its pixels are numbers from {least} to {most}; convert it to 8 or 16 bits")
    bits = max(8, int(most).bit_length())
    if bits < 8 * image.itemsize:
        said = "a picture uses %d of its %d bits, and white is %d for it; the setting `white` makes it so for all"
        logging.log_first_n(logging.WARNING, said, 1, bits, 8 * image.itemsize, 2**bits - 1)
    return (image >> (bits - 8)).astype(np.uint8)


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
    if header.components == 3:
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
