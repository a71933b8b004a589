"""Lock a directory between processes, with flock(2) on the file `.lock` in it. Does file I/O.

The kernel releases the lock when its process ends, however it ends, so a lock is never stale.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

LOCK_FILE = ".lock"


class DirectoryLock:
    """A lock that is held until `release`, or the end of `with`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(directory: Path, *, shared: bool = False) -> DirectoryLock:
    """Wait for the lock of an existing directory, exclusive or shared. Raises OSError."""
    return _flock(directory, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_acquire(directory: Path) -> DirectoryLock | None:
    """The exclusive lock of an existing directory, or None while another process holds a lock. Raises OSError."""
    try:
        return _flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _flock(directory: Path, operation: int) -> DirectoryLock:
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return DirectoryLock(descriptor)
