"""The version that serves, on this machine: what an update compares with and starts from. File and network I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import BadArtifact
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.manifest import Manifest
from lookalike.releases.store import ObjectStore
from pipeline.update.changes import LiveProducts


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVersion:
    """name: as CURRENT has it; empty: none serves. manifest: None: it cannot be read, and nothing is compared."""

    name: str = ""
    manifest: Manifest | None = None

    def products(self, directory: Path) -> LiveProducts | None:
        return None if self.manifest is None else LiveProducts(directory, self.name)


def current_name(location: Directory | ObjectStore) -> str:
    """Empty: no version serves."""
    try:
        return location.current()
    except BadArtifact:
        return ""


def stage_live(
    location: Directory | ObjectStore, directory: Path, notice: Callable[[str], None] = lambda _: None
) -> LiveVersion:
    """The version that serves; one in an object store is fetched into `directory` unless it is there.

    CURRENT of the staging directory names it then, too: it is what training and recipes start from.
    """
    if not (name := current_name(location)):
        return LiveVersion()
    try:
        if isinstance(location, ObjectStore):
            directory.mkdir(parents=True, exist_ok=True)
            if not _is_there(directory, name):
                location.download(name, directory)
            version.make_current(directory, name)
        LiveProducts(directory, name)  # Raises BadArtifact for files that are not there.
        return LiveVersion(name=name, manifest=version.read_manifest(directory, name))
    except BadArtifact as error:
        notice(f"nothing is compared with version {name}, which serves: {error}")
        return LiveVersion(name=name)


def _is_there(directory: Path, name: str) -> bool:
    try:
        version.read_manifest(directory, name)
    except BadArtifact:
        return False
    return True
