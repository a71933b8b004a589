"""Decoding AVIF, HEIC and TIFF images in processes that may be lost."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from encoders.image import isolated_decoder
from encoders.image.isolated_decoder import MAX_PIXELS, MAX_TIFF_PIXELS, Decode, detect_format, image_decoder
from encoders.image.preprocessing import BadImage, ImageTooLarge, preprocess
from lookalike.limits import MAX_IMAGE_BYTES

FORMATS = ("AVIF", "HEIF", "TIFF")
RED = Image.new("RGB", (64, 48), (200, 30, 30))


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    with image_decoder(1, 224) as function:
        yield function


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if format_name == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, format_name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format_name", FORMATS)
def test_an_image_of_each_format_is_decoded(decode: Decode, format_name: str) -> None:
    data = encoded(RED, format_name)

    pixels = decode(data)

    assert detect_format(data) == format_name
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() <= 4


def test_other_formats_are_decoded_as_they_are_for_queries(decode: Decode) -> None:
    data = encoded(RED, "PNG")

    np.testing.assert_array_equal(decode(data), preprocess(data, 224))
    with pytest.raises(BadImage, match="not one of"):
        decode(b"hello")


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1", "P", "I;16"])
def test_tiff_images_of_many_modes_are_decoded(decode: Decode, mode: str) -> None:
    assert decode(encoded(Image.new(mode, (30, 20)), "TIFF")).shape == (224, 224, 3)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_damaged_image_is_refused_and_the_next_one_decoded(decode: Decode, format_name: str) -> None:
    data = encoded(RED, format_name)
    for length in (13, len(data) // 2, len(data) - 3):
        with pytest.raises(BadImage):
            decode(data[:length])

    assert decode(data).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("format_name", "side_px"), [("AVIF", int(MAX_PIXELS**0.5) + 1), ("TIFF", int(MAX_TIFF_PIXELS**0.5) + 1)]
)
def test_too_many_pixels_are_refused_by_the_header(decode: Decode, format_name: str, side_px: int) -> None:
    options = {"compression": "tiff_lzw"} if format_name == "TIFF" else {"speed": 10}

    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(encoded(Image.new("L", (side_px, side_px)), format_name, **options))


def test_too_many_bytes_are_refused(decode: Decode) -> None:
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode(encoded(RED, "TIFF") + bytes(MAX_IMAGE_BYTES))


def test_a_header_that_states_fewer_pixels_than_are_coded_costs_bounded_memory() -> None:
    data = encoded(Image.new("L", (9000, 9000)), "AVIF", speed=10)
    lie = data.replace(struct.pack(">II", 9000, 9000), struct.pack(">II", 90, 90))
    assert lie != data
    with image_decoder(1, 224, max_memory_bytes=64 << 20) as decode:
        with pytest.raises(BadImage, match=r"memory|decode"):
            decode(lie)

        assert decode(encoded(RED, "AVIF")).shape == (224, 224, 3)


def test_a_process_that_dies_takes_its_image_along_and_no_other(
    decode: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with image_decoder(1, 224) as decode_alone:
        decode_alone(encoded(RED, "TIFF"))
        monkeypatch.setattr(isolated_decoder, "MAX_DECODE_S", 0.0)
        with pytest.raises(BadImage, match="takes more than"):
            decode_alone(encoded(Image.new("L", (3000, 3000)), "AVIF", speed=10))
        monkeypatch.undo()

        assert decode_alone(encoded(RED, "TIFF")).shape == (224, 224, 3)
