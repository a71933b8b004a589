"""Releases of a location on this machine: where they lie, or in a cache of what was fetched. Does I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lookalike.errors import BadArtifact
from lookalike.releases.location import Directory
from lookalike.releases.store import ObjectStore
from pipeline.mapped_release import MappedRelease, map_release


@contextmanager
def local_copy(location: Directory | ObjectStore, *names: str) -> Iterator[list[MappedRelease]]:
    """These versions, mapped; those of a URL are fetched into a temporary directory, verified. Raises BadArtifact."""
    here = location.list_versions()
    for name in names:
        if name not in here:
            raise BadArtifact(f"{location}: no version {name} here; there are: {', '.join(here) or 'none'}")
    if isinstance(location, Directory):
        yield [map_release(location.path, name) for name in names]
        return
    with TemporaryDirectory(prefix="lookalike-") as directory:
        for name in names:
            location.download(name, Path(directory))
        yield [map_release(Path(directory), name) for name in names]
