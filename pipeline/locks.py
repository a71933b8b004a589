"""A folder for one process at a time, by a file `.lock` in it, which the system lets go when its process ends."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.errors import OperatorError

log = logging.getLogger(__name__)


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[Path]:
    """Make the folder where there is none, and hold it.

    wait: for another update that holds it, as long as that one works in it; else OperatorError is raised at once.
    Raises OperatorError, too, where there can be no such folder.
    """
    with _opened(directory) as lock:
        if not _held(lock):
            if not wait:
                raise OperatorError(f"{directory}: another update is under way here")
            log.warning("%s: another update is under way here; this one goes on after it", directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory


def _opened(directory: Path) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / ".lock").open("w")
    except OSError as error:
        raise OperatorError(f"{directory} cannot be written: {error.strerror}") from error


def _held(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
