"""Bounds on memory and CPU time of decoding an image, measured in a separate process."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoders.image.card import MAX_INPUT_PX
from encoders.image.preprocessing import (
    MAX_ONE_SCAN_PIXELS,
    MAX_PIXELS,
    MAX_RUN_LENGTH_PIXELS,
    MAX_SCANNED_PIXELS,
    MAX_WEBP_PIXELS,
)
from encoders.image.signature import DEFAULT_INPUT_PX
from lookalike.limits import MAX_IMAGE_BYTES

SIDE_PX = int(MAX_PIXELS**0.5)
WEBP_SIDE_PX = int(MAX_WEBP_PIXELS**0.5)
RLE_SIDE_PX = int(MAX_RUN_LENGTH_PIXELS**0.5)
ONE_SCAN_SIDE_PX = int(MAX_ONE_SCAN_PIXELS**0.5)
FLAT_PX = (65_500, 895)  # The greatest width of libjpeg, and the greatest height that is not scaled down.
BOUND_MB = 420  # The 400 that encoders.image.preprocessing states, plus the allocator's overhead.
CPU_S = 20  # A photo takes up to 3 s of CPU here; a busy machine counts somewhat more.

# Reads images as (size, bytes), decodes each and prints its outcome. RLIMIT_AS is the memory that the process has
# already plus 1.5 times the bound; beyond RLIMIT_CPU the kernel kills the process by SIGXCPU.
CHILD = """
import json, resource, struct, sys, time
from pathlib import Path
from PIL import Image
from encoders.image.preprocessing import BadImage, preprocess

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3 * 1.024

bound_mb, cpu_s, side_px = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
Image.init()
own_mb = status("VmSize")
resource.setrlimit(resource.RLIMIT_AS, (int((own_mb + bound_mb * 1.5) * 1e6),) * 2)
while header := sys.stdin.buffer.read(8):
    data = sys.stdin.buffer.read(struct.unpack("<Q", header)[0])
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before_mb, start_s = status("VmRSS"), time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(start_s + cpu_s) + 1, resource.RLIM_INFINITY))
    reason = ""
    try:
        assert preprocess(data, side_px).shape == (side_px, side_px, 3)
    except BadImage as error:
        reason = error.reason
        assert reason
    print(json.dumps({"reason": reason, "mb": status("VmHWM") - before_mb, "cpu_s": time.process_time() - start_s}))
"""


def decode_in_child(images: list[bytes], side_px: int = DEFAULT_INPUT_PX) -> list[dict[str, Any]]:
    """For each image: the reason for refusing it ("": decoded), the peak memory in MB and the CPU seconds."""
    stdin = b"".join(struct.pack("<Q", len(data)) + data for data in images)
    command = [sys.executable, "-c", CHILD, str(BOUND_MB), str(CPU_S), str(side_px)]
    child = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert child.returncode == 0, (child.returncode, child.stderr.decode()[-2000:])
    return [json.loads(line) for line in child.stdout.splitlines()]


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def ramp(width_px: int, channels: str, height_px: int = 0) -> Image.Image:
    """A gradient with these channels: compresses well, but is not of one colour. height_px: 0 for a square."""
    row = (np.arange(width_px) >> 5).astype(np.uint8)
    grey = Image.fromarray(np.broadcast_to(row, (height_px or width_px, width_px)).copy())
    return grey if len(channels) == 1 else Image.merge(channels, [grey] * (4 if channels == "CMYK" else len(channels)))


def palette(side_px: int) -> Image.Image:
    """A gradient with a palette of 256 colours."""
    image = Image.frombytes("P", (side_px, side_px), ramp(side_px, "L").tobytes())
    image.putpalette(list(range(256)) * 3)
    return image


def with_scans(jpeg: bytes, scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG until it has this number of scans."""
    last = jpeg.rindex(b"\xff\xc4")  # Including its Huffman table.
    more = scans - jpeg.count(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * more + jpeg[-2:]


def run_lengths(side_px: int, runs: bytes) -> bytes:
    """A BMP of 256 greys, compressed as RLE8."""
    begin = 14 + 40 + 4 * 256
    header = struct.pack("<IiiHHIIiiII", 40, side_px, side_px, 1, 8, 1, len(runs), 0, 0, 256, 0)
    greys = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    return b"BM" + struct.pack("<IHHI", begin + len(runs), 0, 0, begin) + header + greys + runs


# In RLE8: a pixel and the end of the line, which Pillow fills byte by byte; and a move by (0, 0).
LINE, NO_MOVE = b"\x01\x05\x00\x00", b"\x00\x02\x00\x00"


# Images of the most pixels allowed in the formats that take the most memory, and their memory bound (MB).
LARGEST: dict[str, tuple[Callable[[], bytes], float]] = {
    "PNG, palette with transparency": (  # 450 if all of it is converted to RGBA at once.
        lambda: encoded(palette(SIDE_PX), "PNG", transparency=bytes(range(256)), compress_level=1),
        160,
    ),
    "PNG, transparent": (lambda: encoded(ramp(SIDE_PX, "RGBA"), "PNG", compress_level=1), 310),
    "PNG, 16 bits of grey": (
        lambda: encoded(Image.fromarray(np.asarray(ramp(SIDE_PX, "L"), np.uint16) * 257), "PNG", compress_level=1),
        260,
    ),
    "GIF, transparent": (lambda: encoded(Image.new("P", (SIDE_PX, SIDE_PX), 1), "GIF", transparency=1), 160),
    "JPEG, progressive, CMYK": (
        lambda: encoded(ramp(SIDE_PX, "CMYK"), "JPEG", quality=30, subsampling=0, progressive=True),
        BOUND_MB,
    ),
    "JPEG, progressive, of as many scans as are allowed": (
        lambda: with_scans(
            encoded(ramp(SIDE_PX, "L"), "JPEG", quality=30, progressive=True), MAX_SCANNED_PIXELS // SIDE_PX**2
        ),
        170,
    ),
    "JPEG of one scan": (lambda: encoded(ramp(ONE_SCAN_SIDE_PX, "L"), "JPEG", quality=30), 40),
    "JPEG of one scan, CMYK, flat": (
        lambda: encoded(ramp(FLAT_PX[0], "CMYK", FLAT_PX[1]), "JPEG", quality=30, subsampling=0),
        340,
    ),
    "BMP, black and white": (lambda: encoded(ramp(SIDE_PX, "L").convert("1"), "BMP"), 160),
    "BMP of run lengths": (
        lambda: run_lengths(
            RLE_SIDE_PX, NO_MOVE * ((MAX_IMAGE_BYTES - 10_000) // 4 - RLE_SIDE_PX) + LINE * RLE_SIDE_PX
        ),
        40,
    ),
    "WebP, transparent": (
        lambda: encoded(Image.new("RGBA", (WEBP_SIDE_PX,) * 2, (9, 8, 7, 99)), "WEBP", lossless=True, method=0),
        BOUND_MB,
    ),
}


@pytest.mark.slow  # Creates and decodes images of 25 to 150 megapixels.
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("format_name", LARGEST)
def test_the_largest_image_of_each_format_stays_within_its_memory_bound(format_name: str) -> None:
    make_image, bound_mb = LARGEST[format_name]
    (outcome,) = decode_in_child([make_image()])
    assert outcome["reason"] == ""
    assert 5 < outcome["mb"] < bound_mb, "at least 5 MB: the measurement works"
    assert outcome["cpu_s"] < CPU_S


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_the_worst_image_for_a_model_of_large_input_stays_within_the_memory_bound() -> None:
    """One pixel less than is scaled down while it is decoded."""
    flat = encoded(ramp(FLAT_PX[0], "CMYK", 2 * MAX_INPUT_PX - 1), "JPEG", quality=30, subsampling=0)
    (outcome,) = decode_in_child([flat], MAX_INPUT_PX)
    assert outcome["reason"] == ""
    assert 340 < outcome["mb"] < BOUND_MB


@pytest.mark.skipif(sys.platform != "linux", reason="limits CPU time as Linux does")
def test_small_files_that_would_take_long_to_decode_are_refused_at_once() -> None:
    progressive = encoded(ramp(SIDE_PX, "L"), "JPEG", quality=30, progressive=True)
    exif = b"\xff\xe1" + struct.pack(">H", 8 + 200) + b"Exif\0\0" + bytes(200)
    small = encoded(ramp(16, "L"), "JPEG")
    results = decode_in_child(
        [
            with_scans(progressive, 1_000),  # Decoding it takes 40 s.
            run_lengths(SIDE_PX, LINE * SIDE_PX),  # 8 s.
            small[:2] + exif * 39_000 + small[2:],  # 7 s.
        ]
    )
    assert [outcome["reason"] for outcome in results] == [
        "1,000 scans of 7071 × 7071 pixels, at most 50 are allowed",
        "7071 × 7071 pixels, at most 2,000,000 are allowed",
        "39,000 segments of EXIF or XMP, at most 1,000 are allowed",
    ]
    assert max(outcome["cpu_s"] for outcome in results) < 1


@pytest.mark.data
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_every_hostile_file_is_decoded_or_refused_with_a_reason_within_the_bounds(real_data: Path) -> None:
    pillow_outcomes = json.loads((real_data / "hostile" / "pillow_outcomes.json").read_text())
    with tarfile.open(real_data / "hostile" / "images.tar") as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        images = {name: file.read() for name, file in files.items() if file is not None}
    results = dict(zip(images, decode_in_child(list(images.values())), strict=True))
    assert len(results) == 418
    assert max(outcome["mb"] for outcome in results.values()) < BOUND_MB
    assert max(outcome["cpu_s"] for outcome in results.values()) < CPU_S
    photo = results["huge_real/5518124b75d6c6dfee4c2e4c0cfa716a.jpg"]  # Of 8484 × 11042 pixels, in one scan.
    assert photo["reason"] == ""
    assert photo["mb"] < 40
    assert not any("object at 0x" in outcome["reason"] for outcome in results.values())
    # Files of these formats that plain Pillow reads are decoded unless they are too large; all others are refused.
    supported = ("ok JPEG", "ok MPO", "ok PNG", "ok WEBP", "ok GIF", "ok BMP")
    readable = {name for name in results if pillow_outcomes[name]["pillow"] in supported}
    decoded_names = {name for name, outcome in results.items() if not outcome["reason"]}
    assert decoded_names <= readable
    assert all("are allowed" in results[name]["reason"] for name in readable - decoded_names)
    assert len(decoded_names) > 250
