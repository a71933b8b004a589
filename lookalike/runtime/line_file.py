"""A file of whole lines, of bounded size, that only this process writes. Does file I/O.

A line that was appended is in the kernel when `append` returns, so that no end of this process loses it or a part of
it, and on the disk at the latest after `sync`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

from lookalike.errors import BadSettings, OperatorError

log = logging.getLogger(__name__)

_TAIL_BYTES = 1 << 16


class LineFile:
    """`path`, and the files before it: `path.1`, the latest of them, to `path.<files - 1>`.

    max_bytes: of each file; a longer line has a file of its own.
    files:     how many there are; the oldest is removed for a new one.

    Raises OperatorError for a file that cannot be opened, BadSettings for one that another process writes.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        try:
            self._descriptor, self._size = _open(path)
        except BlockingIOError:
            raise BadSettings(f"{path}: another process writes to it: every process needs a file of its own") from None
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from error

    def append(self, line: bytes) -> None:
        """Append a line, which ends with its newline. Raises OSError, and then leaves nothing of it in the file."""
        if self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)

    def sync(self) -> None:
        """Return when the current file is on the disk; on any thread. Raises OSError."""
        descriptor = os.dup(self._descriptor)  # It may be closed for another one meanwhile.
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        with suppress(OSError):
            os.fdatasync(self._descriptor)
        os.close(self._descriptor)

    def _rotate(self) -> None:
        """Begin a new file. Where that fails, all is as before."""
        os.fdatasync(self._descriptor)
        following = self._path.with_name(f"{self._path.name}.new")
        descriptor, size = _open(following)  # First: nothing is renamed where there is no room for it.
        for number in range(self._files - 1, 1, -1):
            with suppress(FileNotFoundError):
                os.replace(self._numbered(number - 1), self._numbered(number))
        if self._files > 1:
            os.replace(self._path, self._numbered(1))
        os.replace(following, self._path)
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, size

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _open(path: Path) -> tuple[int, int]:
    """The locked file, and its size. A last line without its end, of a machine that failed, is cut off."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(descriptor).st_size
        whole = _whole_bytes(descriptor, size)
        if whole < size:
            log.warning("%s: cutting off %d bytes of a line that was not written whole", path, size - whole)
            os.ftruncate(descriptor, whole)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, whole


def _whole_bytes(descriptor: int, size: int) -> int:
    """Size of the file up to the end of its last whole line."""
    end = size
    while end:
        start = max(0, end - _TAIL_BYTES)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
