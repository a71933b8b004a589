"""Where versions are built: in their location, or, where that is a URL, in a directory of this machine. Does I/O."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from index.storage.location import Directory
from index.storage.store import Store
from lookalike.errors import BadArtifact


@contextmanager
def workshop(location: Directory | Store, staging: Path | None) -> Iterator[Path]:
    """The directory to build in; for a URL, one that goes away afterwards unless `staging` is given."""
    if isinstance(location, Directory):
        yield location.path
    elif staging is not None:
        yield staging
    else:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as directory:
            yield Path(directory)


def publish(location: Directory | Store, directory: Path, name: str) -> None:
    """Let a version serve from its location, that was built in the directory. Those built there before it go.

    Raises BadArtifact or OperatorError; what serves is then what served.
    """
    if isinstance(location, Directory):
        return  # It was built where it serves.
    location.publish(directory, name)
    staged = Directory(directory)
    for older in staged.names():
        with suppress(BadArtifact):  # It is no version.
            if older != name and staged.read(older):
                staged.drop(older)
