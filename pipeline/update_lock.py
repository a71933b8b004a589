"""Updates that share a directory take turns, or one is refused. Does file I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import OperatorError
from lookalike.runtime import directory_lock

log = logging.getLogger(__name__)


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[Path]:
    """Make the folder where there is none, and hold it.

    wait: for another update that holds it, as long as that one works in it; else OperatorError is raised at once.
    Raises OperatorError, too, where there can be no such folder.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(directory)
        if lock is None:
            if not wait:
                raise OperatorError(f"{directory}: another update is under way here")
            log.warning("%s: another update is under way here; this one goes on after it", directory)
            lock = directory_lock.acquire(directory)
    except OSError as error:
        raise OperatorError(f"{directory} cannot be written: {error.strerror}") from error
    with lock:
        yield directory
