"""The step `publish`: lets a version serve. File and network I/O.

A version is uploaded first, its manifest last, and CURRENT is written by one request: whoever reads meanwhile finds the
version before, or this one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.store import ObjectStore
from pipeline.update.live import current_name

Check = Callable[[], None]  # Raises OperatorError where another update has taken over.


def publish(location: Directory | ObjectStore, directory: Path, name: str, *, before: str, check: Check) -> None:
    """Let a version serve that is built in `directory`. before: the one that served when it was verified.

    Raises OperatorError where another serves by now: what was verified was a change of `before`.
    """
    if isinstance(location, ObjectStore) and not _is_uploaded(location, directory, name):
        location.upload(directory, name)
    check()
    if (current := current_name(location)) not in (before, name):
        raise OperatorError(
            f"{location}: version {current or '(none)'} serves by now, and version {name} was held against "
            f"{before or '(none)'}: run the update again"
        )
    make_current(location, directory, name)


def make_current(location: Directory | ObjectStore, directory: Path, name: str) -> None:
    location.make_current(name)
    if isinstance(location, ObjectStore) and (directory / name).is_dir():
        version.make_current(directory, name)  # The next update starts from it.


def _is_uploaded(location: ObjectStore, directory: Path, name: str) -> bool:
    """Whether the store has this very version: its manifest is written after all other files."""
    try:
        return location.read_manifest(name) == version.read_manifest(directory, name)
    except BadArtifact:
        return False
