"""Decodes AVIF, HEIC and TIFF images in processes of their own, whose memory and time are bounded. Starts processes.

The decoders of these formats reserve the memory that the coded picture states, whatever the file's header says, and
crash now and then: only a process that can be lost keeps the bounds that encoders.image.preprocessing keeps itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from encoders.image.preprocessing import BadImage, ImageTooLarge, decode_as, preprocess
from lookalike.limits import MAX_IMAGE_BYTES

Pixels = npt.NDArray[np.uint8]  # (side_px, side_px, 3)
Decode = Callable[[bytes], Pixels]

# libheif and libavif keep planes of up to 16 bits, which are converted to one of 8: up to 16 bytes per pixel.
MAX_PIXELS: Final = 25_000_000
MAX_TIFF_PIXELS: Final = 50_000_000  # Up to 8 bytes per pixel.
MAX_MEMORY_BYTES: Final = 768 << 20  # Of one process, beyond what it has before it decodes.
MAX_DECODE_S: Final = 30.0  # 25 million pixels of AVIF take 2 s here; a busy machine takes several times as long.

_AVIF_BRANDS: Final = (b"avif", b"avis")
_HEIC_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_SIGNATURES: Final = (b"II*\0", b"MM\0*")
_MAX_BRANDS: Final = 32

_DECODED, _BAD, _TOO_LARGE = b"d", b"b", b"l"


@contextmanager
def image_decoder(processes: int, side_px: int, *, max_memory_bytes: int = MAX_MEMORY_BYTES) -> Iterator[Decode]:
    """A function that decodes an image of any format, as `preprocess`. Raises BadImage; thread-safe.

    processes: how many run at most, from the first image of these formats on. Other formats are decoded here.
    side_px:   of the square that comes out.
    """
    idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
    for _ in range(processes):
        idle.put(None)

    def decode(data: bytes) -> Pixels:
        if not (format_name := detect_format(data)) or len(data) > MAX_IMAGE_BYTES:
            return preprocess(data, side_px)
        process = idle.get() or _Process(side_px, max_memory_bytes)
        try:
            return process.decode(format_name, data)
        finally:
            idle.put(process if process.is_alive else None)

    try:
        yield decode
    finally:
        for _ in range(processes):
            if (process := idle.get()) is not None:
                process.stop()


class DecoderPool:
    """Decoders of images of any format to squares of any size, opened when they are first used. Thread-safe.

    processes: of each size, as for `image_decoder`.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._decoders: dict[int, Decode] = {}  # By the size of the square.
        self._opened = contextlib.ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def decode(self, data: bytes, side_px: int) -> Pixels:
        """As `preprocess`. Raises BadImage."""
        with self._lock:
            if (decode := self._decoders.get(side_px)) is None:
                decode = self._opened.enter_context(image_decoder(self._processes, side_px))
                self._decoders[side_px] = decode
        return decode(data)


def detect_format(data: bytes) -> str:
    """AVIF, HEIF or TIFF by the first bytes; empty: none of them."""
    if data[:4] in _TIFF_SIGNATURES:
        return "TIFF"
    if data[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(data[:4]), 16 + 4 * _MAX_BRANDS)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in _HEIC_BRANDS for brand in brands) else ""


class _Process:
    """One process that decodes an image at a time, and is lost with one that it cannot decode within its bounds."""

    def __init__(self, side_px: int, max_memory_bytes: int) -> None:
        context = multiprocessing.get_context("spawn")  # A fork would share the parent's threads and gRPC.
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, side_px, max_memory_bytes), daemon=True)
        self._process.start()
        self._side_px = side_px
        other.close()
        self.is_alive = True

    def decode(self, format_name: str, data: bytes) -> Pixels:
        try:
            self._connection.send_bytes(format_name.encode())
            self._connection.send_bytes(data)
            if not self._connection.poll(MAX_DECODE_S):
                raise BadImage(f"decoding this {format_name} takes more than {MAX_DECODE_S:.0f} seconds")
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            self.stop()
            raise BadImage(f"the {format_name} decoder failed, or needs more memory than is allowed") from None
        except BaseException:
            self.stop()
            raise
        kind, payload = answer[:1], answer[1:]
        if kind == _DECODED:
            return np.frombuffer(payload, np.uint8).reshape(self._side_px, self._side_px, 3).copy()
        raise (ImageTooLarge if kind == _TOO_LARGE else BadImage)(payload.decode())

    def stop(self) -> None:
        self.is_alive = False
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _serve(connection: Connection, side_px: int, max_memory_bytes: int) -> None:
    """Decode what comes until the other end closes. In the process of its own."""
    from PIL import AvifImagePlugin
    from pillow_heif import options, register_heif_opener

    with open(os.devnull, "w") as nowhere:  # libtiff writes what is wrong with an image to standard error.
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    register_heif_opener(thumbnails=False)
    options.DECODE_THREADS = 1
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    own_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own_bytes + max_memory_bytes,) * 2)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            format_name = connection.recv_bytes().decode()
            connection.send_bytes(_answer(format_name, connection.recv_bytes(), side_px))


def _answer(format_name: str, data: bytes, side_px: int) -> bytes:
    max_pixels = MAX_TIFF_PIXELS if format_name == "TIFF" else MAX_PIXELS
    try:
        return _DECODED + decode_as(format_name, data, side_px, max_pixels=max_pixels).tobytes()
    except MemoryError:
        return _TOO_LARGE + f"decoding this {format_name} needs more memory than is allowed".encode()
    except BadImage as error:
        return (_TOO_LARGE if isinstance(error, ImageTooLarge) else _BAD) + error.reason.encode(errors="replace")
