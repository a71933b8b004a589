"""Where versions lie: a directory, or an object store by its URL. Does I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from index.storage import version
from index.storage.manifest import Manifest
from index.storage.names import shard_name
from index.storage.store import Store
from lookalike.errors import BadArtifact, BadSettings, OperatorError


class Location(Protocol):
    """Everything raises BadArtifact for what is missing or damaged, and OperatorError for what cannot be reached."""

    def current(self) -> str:
        """The version that serves."""

    def make_current(self, name: str) -> None:
        """Let a version serve: whoever reads sees the one before or this one."""

    def names(self) -> list[str]:
        """Of the versions that are here, whole or not."""

    def read(self, name: str) -> Manifest:
        """The manifest of a version; its files are not looked at."""

    def verify(self, manifest: Manifest) -> int:
        """Compare every file with its checksum; returns the bytes read."""

    def drop(self, name: str) -> None:
        """Remove a version."""


class Held(NamedTuple):
    """Files of a version that are on this machine, whole and undamaged, until they are released."""

    location: Path  # LOCATION/<version>/…, as of a directory that holds no more than what was asked for.
    release: Callable[[], None]


class Directory:
    """On a disk of this machine: what is used is mapped where it lies."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def current(self) -> str:
        return version.current(self.path)

    def make_current(self, name: str) -> None:
        try:
            version.make_current(self.path, name)
        except OSError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def names(self) -> list[str]:
        try:
            return version.names(entry.name for entry in self.path.iterdir() if entry.is_dir())
        except OSError as error:
            raise BadArtifact(f"{self.path}: no index here: {error}") from error

    def read(self, name: str) -> Manifest:
        return version.read(self.path, name)

    def verify(self, manifest: Manifest) -> int:
        return version.verify(self.path / manifest.version, manifest)

    def drop(self, name: str) -> None:
        try:
            version.drop(self.path, name)
        except OSError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def hold(self, manifest: Manifest, shard: int) -> Held:
        """Verify the files of a shard, where they lie."""
        version.verify(self.path / manifest.version, manifest, below=shard_name(shard) + "/")
        return Held(self.path, lambda: None)


def located(where: str, options: str = "") -> Directory | Store:
    """A path, or a URL with its filesystem's options as a JSON object. Raises BadSettings, OperatorError."""
    if "://" not in where:
        return Directory(Path(where))
    try:
        given = json.loads(options or "{}")
    except ValueError as error:
        raise BadSettings(f"storage options: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadSettings("storage options: not a JSON object")
    return Store(where, given)
