"""Where a version is built: in its location or, for a URL, in a staging directory of this machine. Does I/O."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lookalike.errors import BadArtifact
from lookalike.releases.location import Directory
from lookalike.releases.store import ObjectStore


@contextmanager
def staging_directory(location: Directory | ObjectStore, staging: Path | None) -> Iterator[Path]:
    """The directory to build in; for a URL, a temporary one unless `staging` is given."""
    if isinstance(location, Directory):
        yield location.path
    elif staging is not None:
        yield staging
    else:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as directory:
            yield Path(directory)


def publish(location: Directory | ObjectStore, directory: Path, name: str) -> None:
    """Upload a version from the staging directory, let it serve, and remove older versions from staging.

    Raises BadArtifact or OperatorError; the version that served then goes on serving.
    """
    if isinstance(location, Directory):
        return  # It was built where it serves.
    location.publish(directory, name)
    staged = Directory(directory)
    for older in staged.list_versions():
        with suppress(BadArtifact):  # It is no version.
            if older != name and staged.read_manifest(older):
                staged.drop(older)
