"""Decoding and resizing images: formats, colour modes, orientation, limits and damaged files."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from encoders import clients
from encoders.image import isolated_decoder, preprocessing
from encoders.image.preprocessing import MAX_ONE_SCAN_PIXELS, MAX_PIXELS, BadImage
from lookalike.limits import MAX_IMAGE_BYTES

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")

preprocess = partial(preprocessing.preprocess, side_px=224)


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def noise(width_px: int, height_px: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8))


def quarters(side_px: int = 400) -> Image.Image:
    """Red, green / blue, white: shows which way is up."""
    image = Image.new("RGB", (side_px, side_px), "white")
    half = side_px // 2
    image.paste("red", (0, 0, half, half))
    image.paste("lime", (half, 0, side_px, half))
    image.paste("blue", (0, half, half, side_px))
    return image


def png_header(width_px: int, height_px: int) -> bytes:
    """A PNG header that declares these dimensions, without pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def corners(pixels: npt.NDArray[np.uint8]) -> list[list[int]]:
    return [pixels[y, x].tolist() for y in (20, -20) for x in (20, -20)]


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_becomes_224_by_224_rgb_bytes(format_name: str) -> None:
    pixels = preprocess(encoded(noise(300, 500), format_name))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_is_decoded(mode: str) -> None:
    grey = Image.new("L", (64, 64), 200).convert("I").point(lambda v: v * 257).convert("I;16")
    image = grey if mode == "I;16" else Image.new("RGB", (64, 64), (200, 200, 200)).convert(mode)
    format_name = {"CMYK": "JPEG", "P": "GIF"}.get(mode, "PNG")
    assert abs(int(preprocess(encoded(image, format_name)).mean()) - 200) <= (60 if mode == "1" else 5)


def rgb_of_16_bits(side_px: int, value: int) -> bytes:
    """A PNG of 16 bits per channel, which Pillow reads but does not write."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side_px, side_px, 16, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress((b"\0" + struct.pack(">H", value) * 3 * side_px) * side_px)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_16_bit_colour_is_reduced_to_its_upper_8_bits() -> None:
    assert (preprocess(rgb_of_16_bits(64, 0xC8FF)) == 0xC8).all()


def test_cmyk_is_converted_to_rgb() -> None:
    pixels = preprocess(encoded(Image.new("CMYK", (64, 64), (255, 0, 0, 0)), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (0, 255, 255)).max() < 10


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(3000, 1500), (1200, 4000), (20_000, 210), (90, 50_000)])
def test_a_large_image_resized_in_bands_equals_one_resized_at_once(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = noise(40, 40).convert("RGB" if mode in ("P", "I;16") else mode)
    image = small.resize(size, Image.Resampling.NEAREST)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    data = encoded(image.convert("P") if mode == "P" else image, compress_level=1)
    in_bands = preprocess(data).astype(int)
    monkeypatch.setattr(preprocessing, "_UNBANDED_PIXELS", MAX_PIXELS)
    assert image.width * image.height > 4_000_000
    # Pillow resizes rows and columns separately, and rounds both; compositing on white doubles the error.
    assert np.abs(in_bands - preprocess(data)).max() <= 4


@pytest.mark.parametrize("side_px", [32, 100, 299, 512])
def test_a_model_gets_the_square_that_it_takes(side_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(400, 600)
    expected = np.asarray(image.resize((side_px, side_px), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(preprocessing.preprocess(encoded(image), side_px), expected)
    monkeypatch.setattr(preprocessing, "_UNBANDED_PIXELS", 0)
    in_bands = preprocessing.preprocess(encoded(image), side_px).astype(int)
    assert np.abs(in_bands - expected).max() <= 2


def test_an_image_of_224_by_224_is_unchanged() -> None:
    image = noise(224, 224)
    np.testing.assert_array_equal(preprocess(encoded(image)), np.asarray(image))


def test_resizing_is_bilinear_without_keeping_the_aspect_ratio() -> None:
    image = noise(700, 300)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(preprocess(encoded(image)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_image_is_turned_upright(orientation: int) -> None:
    # The inverse of each EXIF orientation turns the upright image into the stored one.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = quarters()
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format_name in ("JPEG", "PNG", "WebP"):
        colours = np.array(corners(preprocess(encoded(stored, format_name, exif=exif, quality=100))))
        expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
        assert np.abs(colours - expected).max() < 30, format_name


def test_an_image_with_damaged_exif_is_decoded_unrotated() -> None:
    data = encoded(quarters(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert corners(preprocess(data))[0][0] > 200


def test_transparent_pixels_become_white() -> None:
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    assert (preprocess(encoded(image)) == 255).all()
    assert (preprocess(encoded(image, "WebP", lossless=True)) == 255).all()


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (preprocess(encoded(image, transparency=1)) == 255).all()
    assert (preprocess(encoded(image)) == (10, 20, 30)).all()


def test_half_transparent_pixels_are_blended_with_white() -> None:
    image = Image.new("RGBA", (300, 300), (0, 0, 0, 128))
    assert set(preprocess(encoded(image)).ravel().tolist()) <= {126, 127, 128}


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WebP"])
def test_the_first_frame_of_an_animation_is_used(format_name: str) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert np.abs(preprocess(data).mean(axis=(0, 1)) - (255, 0, 0)).max() < 5


@pytest.mark.parametrize("format_name", ["TIFF", "ICO", "PPM", "JPEG2000"])
def test_other_formats_are_refused(format_name: str) -> None:
    with pytest.raises(BadImage, match="not one of JPEG, PNG, WebP, GIF, BMP"):
        preprocess(encoded(noise(32, 32), format_name))


@pytest.mark.parametrize("data", [b"", b"BM", b"\xff\xd8\xff", b"GIF89a", b"RIFF0000WEBP", b"no picture at all"])
def test_bytes_that_are_not_an_image_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        preprocess(data)


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_truncated_image_is_refused_with_its_reason(format_name: str) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    data = encoded(noise(200, 200), format_name)
    for length in range(0, len(data) * 19 // 20, len(data) // 25):
        with pytest.raises(BadImage) as raised:
            preprocess(data[:length])
        assert raised.value.reason == str(raised.value) != ""


def test_random_damage_raises_nothing_but_bad_image() -> None:
    rng = np.random.default_rng(7)
    for format_name in FORMATS:
        whole = np.frombuffer(encoded(noise(64, 48), format_name), dtype=np.uint8)
        for _ in range(150):
            data = whole.copy()
            offsets = rng.integers(0, rng.choice([40, len(data)]), 4)
            data[offsets] = rng.integers(0, 256, len(offsets), dtype=np.uint8)
            with contextlib.suppress(BadImage):
                assert preprocess(data.tobytes()).shape == (224, 224, 3)


def test_more_than_eight_mebibytes_are_refused_before_decoding() -> None:
    data = encoded(noise(10, 10))
    assert preprocess(data + bytes(MAX_IMAGE_BYTES - len(data))).shape == (224, 224, 3)
    with pytest.raises(BadImage, match="8,388,608 are allowed"):
        preprocess(data + bytes(MAX_IMAGE_BYTES - len(data) + 1))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((10_000, 5_001), "50,000,000 are allowed"),
        ((13_000, 10_000), "50,000,000"),
        ((60_000, 60_000), "50,000,000"),
        ((65_536, 1), "a side must have"),
        ((1, 700_000), "a side must have"),
        ((0, 10), "PNG"),
        ((2**31 - 1, 2**31 - 1), "PNG|pixels"),
    ],
)
def test_too_many_pixels_or_too_long_a_side_are_refused_by_the_header(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        preprocess(png_header(*size))


def test_fifty_megapixels_are_allowed() -> None:
    assert preprocess(encoded(Image.new("L", (10_000, 5_000), 7), compress_level=1)).max() == 7


def jpeg_header(width_px: int, height_px: int, **options: Any) -> bytes:
    """A JPEG whose header declares these dimensions, but which has few pixels."""
    data = encoded(noise(16, 16), "JPEG", **options)
    frame = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height_px, width_px) + data[frame + 4 :]


def test_a_one_scan_jpeg_may_have_150_megapixels() -> None:
    photo = Image.new("L", (12_500, 12_000), 200)
    assert photo.width * photo.height == MAX_ONE_SCAN_PIXELS
    assert preprocess(encoded(photo, "JPEG")).min() == 200
    for size in ((12_500, 12_001), (60_000, 60_000)):  # Pillow itself refuses the second.
        with pytest.raises(BadImage, match="150,000,000"):
            preprocess(jpeg_header(*size))


def test_a_progressive_jpeg_may_have_50_megapixels() -> None:
    with pytest.raises(BadImage, match="10000 × 5001 pixels, at most 50,000,000 are allowed"):
        preprocess(jpeg_header(10_000, 5_001, progressive=True))


@pytest.mark.parametrize(
    ("original", "replacement"),
    [
        pytest.param(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01", id="a scan for each component"),
        pytest.param(b"\xff\xda", b"\0\xff\xda", id="bytes between segments"),
        pytest.param(b"\xff\xda", b"\xff\xff\xda", id="fill byte before a marker"),
        pytest.param(b"\xff\xc0", b"\xff\xc9", id="arithmetic coding"),
    ],
)
def test_a_jpeg_that_may_not_be_one_scan_may_have_50_megapixels(original: bytes, replacement: bytes) -> None:
    data = jpeg_header(10_000, 5_001)
    assert original in data
    with pytest.raises(BadImage, match="10000 × 5001 pixels, at most 50,000,000 are allowed"):
        preprocess(data.replace(original, replacement, 1))


def test_a_large_jpeg_is_decoded_at_one_eighth_scale() -> None:
    """Measures peak memory in a separate process: 100 megapixels decoded whole are 300 MB as RGB."""
    script = """
import pathlib, sys
from encoders.image.preprocessing import preprocess
def peak_kib():  # Not ru_maxrss, which starts at the parent's.
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
data = sys.stdin.buffer.read()
before = peak_kib()
assert preprocess(data, 224).shape == (224, 224, 3)
print(peak_kib() - before)
"""
    data = encoded(Image.new("RGB", (10_000, 10_000), "red"), "JPEG")
    result = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert int(result.stdout) < 60_000


def test_a_small_progressive_jpeg_may_have_many_scans() -> None:
    data = encoded(noise(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert preprocess(data[:-2] + data[last : last + 10] * 1_000 + data[-2:]).shape == (224, 224, 3)


def test_a_one_scan_jpeg_with_accidental_markers_is_accepted() -> None:
    """Many phones append a short film to a photo, whose bytes may contain markers."""
    data = encoded(Image.new("RGB", (4_000, 3_000), "red"), "JPEG")
    assert preprocess(data + b"\xff\xda\xff\xe1" * 900).shape == (224, 224, 3)


def test_a_bmp_with_the_oldest_header_is_never_taken_for_run_length_encoded() -> None:
    side_px = 1_600
    row = bytes([0, 0, 0, 0, 1, 0, 0, 0]) + bytes(3 * side_px - 8)  # The 1 is where a newer header has its compression.
    header = (
        b"BM"
        + struct.pack("<IHHI", 26 + side_px * len(row), 0, 0, 26)
        + struct.pack("<IHHHH", 12, *(side_px,) * 2, 1, 24)
    )
    assert preprocess(header + row * side_px).shape == (224, 224, 3)


def test_a_memory_error_is_not_reported_as_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(image: Image.Image, side_px: int) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(preprocessing, "_to_square", run_out_of_memory)
    with pytest.raises(MemoryError):
        preprocess(encoded(noise(8, 8)))


def test_scaled_decoding_gives_nearly_the_same_pixels() -> None:
    small = noise(28, 28).resize((1800, 1800), Image.Resampling.BICUBIC)
    data = encoded(small, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as whole:
        expected = np.asarray(whole.resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32)
    assert np.abs(preprocess(data) - expected).mean() < 3


def test_concurrent_decoding_leaves_the_warning_filters_unchanged() -> None:
    damaged_exif = encoded(noise(20, 20), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    preprocess(damaged_exif)
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [preprocess(damaged_exif) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_webp_may_have_25_megapixels() -> None:
    data = encoded(Image.new("RGB", (5_001, 5_000)), "WebP", lossless=True, method=0)
    with pytest.raises(BadImage, match="5001 × 5000 pixels, at most 25,000,000 are allowed"):
        preprocess(data)


def test_queries_and_catalogues_use_the_same_preprocessing_function() -> None:
    assert vars(clients)["preprocess"] is vars(isolated_decoder)["preprocess"] is preprocessing.preprocess
