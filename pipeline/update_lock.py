"""Locks a directory, so that one update at a time works in it. Does file I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import OperatorError
from lookalike.runtime import directory_lock

log = logging.getLogger(__name__)


@contextmanager
def lock_directory(directory: Path, *, wait: bool = False) -> Iterator[Path]:
    """Create the directory if it is missing, and lock it.

    wait: wait until another update releases it; else OperatorError is raised at once.
    Raises OperatorError, too, if the directory cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(directory)
        if lock is None:
            if not wait:
                raise OperatorError(f"{directory}: another update is running here")
            log.warning("%s: another update is running here; waiting for it to finish", directory)
            lock = directory_lock.acquire(directory)
    except OSError as error:
        raise OperatorError(f"{directory} cannot be written: {error.strerror}") from error
    with lock:
        yield directory
