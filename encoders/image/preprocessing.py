"""Decode an image file and resize it for an image model, alike for queries and the catalogue. Pure (Pillow).

The image is resized to the square that the model's card states, with a bilinear filter, without keeping its aspect
ratio, as Keras does and as its ImageNet weights were trained. The rest of the preprocessing is in the model. Colour
profiles are ignored, as in that training.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lookalike.limits import MAX_IMAGE_BYTES

# Decoding takes up to 8 bytes per pixel (a progressive CMYK JPEG, whose coefficients libjpeg all keeps), a WebP 16 (two
# canvases, their bytes, Pillow's image): at worst 400 MB. A PNG, GIF or BMP takes 4, plus 8 for the
# eighth of the image that is being converted.
MAX_PIXELS: Final = 50_000_000
MAX_WEBP_PIXELS: Final = 25_000_000
# A one-scan JPEG is scaled down while it is decoded, a row of blocks at a time: a square of this size takes 20 MB. The
# worst case, 310 MB, is 65,500 × 895, too flat to be scaled; 355 MB, 65,500 × 1,023, for a model that takes 512 px.
# Pillow itself refuses more than 178,956,970 pixels.
MAX_ONE_SCAN_PIXELS: Final = 150_000_000
# Each scan of a multi-scan JPEG covers all pixels, however few bytes it has: 0.04 s of CPU for 50 million pixels. This
# allows 50 scans of such an image, more of smaller ones; Pillow writes 10, and 18 for CMYK.
MAX_SCANNED_PIXELS: Final = 2_500_000_000
MAX_RUN_LENGTH_PIXELS: Final = 2_000_000  # Of a BMP: Pillow decodes run lengths in Python, 8 s for 50 million pixels.
# Of a JPEG; normally a few. Pillow copies all previous segments for each one: 39,000 take 7 s.
MAX_EXIF_SEGMENTS: Final = 1_000
MAX_SIDE_PX: Final = 65_535  # The maximum of a JPEG; an image of 1 × millions of pixels is an attack.

_SIGNATURES: Final = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM"),
}
# JPEG segment markers: sequential Huffman frames; start of scan; tables, restart intervals, APP0 to APP15, comments.
_SEQUENTIAL: Final = (0xC0, 0xC1)
_START_OF_SCAN: Final = 0xDA
_OTHER_SEGMENTS: Final = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)
# Larger images are resized in 8 bands, so that only an eighth of the image is converted to colour at a time.
_UNBANDED_PIXELS: Final = 4_000_000
_BANDS: Final = 8
_MAX_DRAFT_PX: Final = 448  # Of a larger square: no more than it needs, for what `MAX_ONE_SCAN_PIXELS` says of memory.
# Pillow's warnings are about limits that this module checks, or harmless (damaged EXIF: not rotated). Not
# `catch_warnings`, which changes global state and is not safe when two threads decode.
_IGNORE_PILLOW_WARNINGS: Final = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class BadImage(ValueError):
    """An image that cannot be decoded or is too large; `reason` says why, for the sender of the image."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImageTooLarge(BadImage):
    """An image with more bytes or pixels than are decoded."""


def preprocess(data: bytes, side_px: int) -> npt.NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP, GIF or BMP to (side_px, side_px, 3) uint8 RGB: upright, on white, the first frame.

    Format and size are checked in the header, before decoding. Raises BadImage, or MemoryError, which is not the fault
    of the image. Thread-safe.
    """
    format_name = _detect_format(data)
    if format_name == "JPEG":
        _check_exif(data)
    return decode_as(format_name, data, side_px, max_pixels=_max_pixels(format_name, data))


def decode_as(format_name: str, data: bytes, side_px: int, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Decode an image that is known to be of a format, as `preprocess`, unless its header states too many pixels."""
    if _IGNORE_PILLOW_WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(io.BytesIO(data), formats=[format_name.upper()]) as image:
            _check_size(*image.size, max_pixels)
            if format_name == "JPEG" and not _is_one_scan(data):
                _check_scans(data, *image.size)
            return np.array(_to_square(image, side_px), dtype=np.uint8)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"its {format_name} header is damaged") from None
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"far more than the {max_pixels:,} pixels allowed") from None
    except Exception as error:  # For bad bytes Pillow raises OSError, ValueError, SyntaxError, TypeError, and others.
        raise BadImage(f"a damaged {format_name}: {error or type(error).__name__}") from error


def _detect_format(data: bytes) -> str:
    if not data:
        raise BadImage("the image is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"{len(data):,} bytes, at most {MAX_IMAGE_BYTES:,} are allowed")
    for format_name, signature in _SIGNATURES.items():
        if signature.match(data):
            return format_name
    raise BadImage(f"not one of {', '.join(_SIGNATURES)}")


def _max_pixels(format_name: str, data: bytes) -> int:
    if format_name == "WebP":
        return MAX_WEBP_PIXELS
    if format_name == "BMP" and _is_run_length_encoded(data):
        return MAX_RUN_LENGTH_PIXELS
    return MAX_ONE_SCAN_PIXELS if format_name == "JPEG" and _is_one_scan(data) else MAX_PIXELS


def _is_one_scan(data: bytes) -> bool:
    """Whether a JPEG is sequential, with all components in its first scan (ITU-T T.81, annex B).

    For all others, such as progressive ones, libjpeg keeps every coefficient. False too for bytes that are not a clean
    sequence of segments, although libjpeg may be able to read them.
    """
    offset, components = 2, 0
    while len(head := data[offset : offset + 10]) == 10 and head[0] == 0xFF:
        marker, length = head[1], int.from_bytes(head[2:4])
        if marker in _SEQUENTIAL:
            components = head[9]
        elif marker == _START_OF_SCAN:
            return head[4] == components
        elif marker not in _OTHER_SEGMENTS:
            return False
        offset += 2 + length
    return False


def _is_run_length_encoded(bmp: bytes) -> bool:
    """Whether a BMP is compressed as RLE8 or RLE4. The oldest header, of 12 bytes, has no compression field."""
    return bmp[14:18] != b"\x0c\0\0\0" and int.from_bytes(bmp[30:34], "little") in (1, 2)


def _check_exif(jpeg: bytes) -> None:
    """Bound the EXIF and XMP segments. Counts the bytes of their marker, which cannot occur within a scan."""
    segments = jpeg.count(b"\xff\xe1")
    if segments > MAX_EXIF_SEGMENTS:
        raise BadImage(f"{segments:,} segments of EXIF or XMP, at most {MAX_EXIF_SEGMENTS:,} are allowed")


def _check_scans(jpeg: bytes, width_px: int, height_px: int) -> None:
    """Bound the work of a multi-scan JPEG. After one scan with all components, libjpeg refuses a second."""
    scans = jpeg.count(b"\xff\xda")
    if scans * width_px * height_px > MAX_SCANNED_PIXELS:
        max_scans = MAX_SCANNED_PIXELS // (width_px * height_px)
        raise BadImage(f"{scans:,} scans of {width_px} × {height_px} pixels, at most {max_scans:,} are allowed")


def _check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    if not (1 <= width_px <= MAX_SIDE_PX and 1 <= height_px <= MAX_SIDE_PX):
        raise BadImage(f"{width_px} × {height_px} pixels: a side must have 1 to {MAX_SIDE_PX:,}")
    if width_px * height_px > max_pixels:
        raise ImageTooLarge(f"{width_px} × {height_px} pixels, at most {max_pixels:,} are allowed")


def _to_square(image: Image.Image, side_px: int) -> Image.Image:
    """Decode, resize, composite on white and rotate. Resized first: the other steps then cost next to nothing."""
    # Decode a JPEG at 1/2, 1/4 or 1/8 if at least this many pixels remain. Other formats ignore this.
    draft_px = max(side_px, min(2 * side_px, _MAX_DRAFT_PX))
    image.draft("RGB", (draft_px, draft_px))
    image.load()
    square = _resize(image, side_px)
    if square.mode == "RGBA":
        square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square)
    return _rotate_upright(square.convert("RGB"), image.info.get("exif", b""))


def _resize(image: Image.Image, side_px: int) -> Image.Image:
    """Resize to RGB, or RGBA with transparency. In bands the result differs only by rounding."""
    if image.width * image.height <= _UNBANDED_PIXELS:
        return _to_colour(image).resize((side_px, side_px), Image.Resampling.BILINEAR)
    square = Image.new(_colour_mode(image), (side_px, side_px))
    scale = image.height / side_px
    edges = [side_px * band // _BANDS for band in range(_BANDS + 1)]
    for top, bottom in itertools.pairwise(edges):
        begin, end = top * scale, bottom * scale
        # The filter reaches one row of the square, and at least one of the image, beyond the band.
        first = max(0, math.floor(begin - max(scale, 1)))
        last = min(image.height, math.ceil(end + max(scale, 1)))
        strip = _to_colour(image.crop((0, first, image.width, last)))
        box = (0, begin - first, image.width, min(end, image.height) - first)
        square.paste(strip.resize((side_px, bottom - top), Image.Resampling.BILINEAR, box), (0, top))
    return square


def _rotate_upright(square: Image.Image, exif: bytes) -> Image.Image:
    square.info["exif"] = exif
    try:
        return ImageOps.exif_transpose(square)
    except MemoryError:
        raise
    except Exception:  # Of any type, as above. Browsers show an image with damaged EXIF unrotated.
        return square


def _to_colour(image: Image.Image) -> Image.Image:
    """Convert to RGB, or RGBA with transparency, if it is not already."""
    mode = _colour_mode(image)
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255.
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _colour_mode(image: Image.Image) -> str:
    return "RGBA" if image.has_transparency_data else "RGB"
