"""A write-ahead log: frames appended to one file, each whole or absent. Does file I/O.

A frame is the length of its payload, the payload's CRC-32, the CRC-32 of these two, and the payload. A torn frame at
the end of the file is what a crash left of a write, and is cut off; any other deviation is damage.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from lookalike.errors import BadArtifact
from lookalike.releases.version import fsync_path

log = logging.getLogger(__name__)

MAGIC = b"LKLOG\x01\r\n"
_FRAME = struct.Struct("<II")
_CHECK = struct.Struct("<I")
_HEADER = _FRAME.size + _CHECK.size


class WriteAheadLog:
    """A log file that one writer appends to. After a disk error the file is as it was before the write."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path = path
        self.size = size  # In bytes, all of them synced to disk.
        self._descriptor = descriptor
        self._broken = ""

    @classmethod
    def create(cls, path: Path) -> WriteAheadLog:
        """Create the file and sync it to disk with its name. Raises OSError, and then leaves no file."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        created = cls(path, descriptor, 0)
        try:
            created._write(MAGIC)
            fsync_path(path.parent)
        except OSError:
            created.close()
            path.unlink()
            raise
        return created

    @classmethod
    def reopen(cls, path: Path, size: int) -> WriteAheadLog:
        """Open the file to append after its whole frames, of `size` bytes; cuts off what follows them."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        if (torn := os.fstat(descriptor).st_size - size) > 0:
            log.warning("%s: cutting off %d bytes of a write that was never acknowledged", path, torn)
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        reopened = cls(path, descriptor, size)
        if not size:
            reopened._write(MAGIC)
        return reopened

    def append(self, payload: bytes) -> None:
        """Return when the frame is synced to disk. Raises OSError, and then leaves nothing of it in the file."""
        head = _FRAME.pack(len(payload), crc32(payload))
        self._write(head + _CHECK.pack(crc32(head)) + payload)

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        if self._broken:
            raise OSError(self._broken)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fdatasync(self._descriptor)
        except OSError:
            self._undo()
            raise
        self.size += len(data)

    def _undo(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
            os.fsync(self._descriptor)
        except OSError as error:  # What the file holds is unknown until a restart reads it.
            self._broken = f"{self.path}: a failed write could not be undone: {error}; restart the shard"
            log.exception(self._broken)


def head_size(path: Path) -> int:
    """Size in bytes of the magic number that the file begins with; 0 if it is incomplete."""
    return len(MAGIC) if path.stat().st_size >= len(MAGIC) else 0


def read_frames(path: Path, *, last: bool) -> Iterator[tuple[bytes, int]]:
    """Each payload with the size of the file up to its end.

    last: whether this is the log that was being written, whose end may be torn. Raises BadArtifact, naming the file
    and the byte.
    """
    data = path.read_bytes()
    offset = len(MAGIC)
    if data[:offset] != MAGIC:
        if last and MAGIC.startswith(data):
            return
        raise BadArtifact(f"{path}: not a log of updates")
    while offset < len(data):
        rest = memoryview(data)[offset:]
        torn = len(rest) < _HEADER or not any(rest)
        if not torn:
            length, check = _FRAME.unpack_from(rest)
            if _CHECK.unpack_from(rest, _FRAME.size)[0] != crc32(rest[: _FRAME.size]):
                raise BadArtifact(f"{path}: damaged at byte {offset}")
            torn = len(rest) < _HEADER + length
        if torn:
            if last:
                return
            raise BadArtifact(f"{path}: truncated at byte {offset}")
        payload = bytes(rest[_HEADER : _HEADER + length])
        if crc32(payload) != check:
            raise BadArtifact(f"{path}: damaged at byte {offset}")
        offset += _HEADER + length
        yield payload, offset
