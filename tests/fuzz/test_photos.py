"""Any bytes are a photo of the size that the model takes, or a BadImage: no other error, in bounded time and memory."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from encoders.image.isolated_decoder import Decode, image_decoder
from encoders.image.preprocessing import BadImage, preprocess
from tests.fuzz.budget import OUTCOMES, fuzz
from tests.fuzz.mutations import damaged

SIDE_PX = 32
MAX_S = 20.0  # Of a photo so small, on a machine however busy; it takes milliseconds.


def _encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return _encoded("JPEG", exif=exif)


def _animated(kind: str) -> bytes:
    frames, buffer = [Image.new("RGB", (16, 16), (each, 0, 0)) for each in (1, 90, 200)], io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


# Of formats that are decoded in this process.
PHOTOS = (
    _encoded("JPEG"),
    _encoded("JPEG", progressive=True),
    _encoded("JPEG", "CMYK"),
    _encoded("JPEG", "L"),
    _with_exif(),
    _encoded("PNG"),
    _encoded("PNG", "RGBA"),
    _encoded("PNG", "P"),
    _encoded("PNG", "1"),
    _encoded("PNG", "L"),
    _encoded("WEBP"),
    _encoded("WEBP", "RGBA", lossless=True),
    _encoded("GIF", "P"),
    _encoded("BMP"),
    _encoded("BMP", "P"),
    _animated("GIF"),
    _animated("PNG"),
    _animated("WEBP"),
)
# Of those that a process of its own decodes.
OTHERS = (
    _encoded("TIFF"),
    _encoded("TIFF", compression="tiff_lzw"),
    _encoded("TIFF", compression="tiff_adobe_deflate"),
    _encoded("AVIF"),
)


@fuzz(600, data=st.data())
def test_any_bytes_are_a_photo_or_are_refused(data: Any) -> None:
    encoded = data.draw(st.sampled_from(PHOTOS).flatmap(damaged))
    _decode(lambda photo: preprocess(photo, SIDE_PX), encoded)


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    with image_decoder(1, SIDE_PX) as decode:
        yield decode


@fuzz(60, data=st.data())
def test_any_bytes_of_another_format_are_a_photo_or_are_refused(decode: Decode, data: Any) -> None:
    _decode(decode, data.draw(st.sampled_from(OTHERS).flatmap(damaged)))


def _decode(decode: Decode, encoded: bytes) -> None:
    started_s = time.monotonic()
    try:
        pixels = decode(encoded)
    except BadImage as error:
        OUTCOMES["photos refused"] += 1
        assert error.reason  # noqa: PT017  # most damages are not refused
    else:
        OUTCOMES["photos decoded"] += 1
        assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
        assert pixels.dtype == np.uint8
    assert time.monotonic() - started_s < MAX_S


@pytest.mark.parametrize("photo", [*PHOTOS, *OTHERS], ids=lambda photo: f"{len(photo)} bytes")
def test_each_photo_is_one_before_it_is_damaged(decode: Decode, photo: bytes) -> None:
    assert decode(photo).shape == (SIDE_PX, SIDE_PX, 3)
