"""Where the versions of an index are: a directory, or an object store named by a URL. Does I/O."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.releases import version
from lookalike.releases.canary import CANARY, Canary, dump_canary, parse_canary
from lookalike.releases.manifest import Manifest
from lookalike.releases.store import ObjectStore
from lookalike.strict_json import parse_json


class Location(Protocol):
    """Every method raises BadArtifact for what is missing or damaged, OperatorError for what cannot be reached."""

    def current(self) -> str:
        """The name of the current version: the one that serves."""

    def make_current(self, name: str) -> None:
        """Make a version the current one, atomically: readers see either the previous version or this one."""

    def canary(self) -> Canary | None:
        """The version that answers a share of requests beside the current one; None: there is none."""

    def set_canary(self, canary: Canary | None) -> None:
        """Let a version answer a share of requests, or none, atomically."""

    def list_versions(self) -> list[str]:
        """The names of all versions, complete or not."""

    def read_manifest(self, name: str) -> Manifest:
        """The manifest of a version; its other files are not read."""

    def verify(self, manifest: Manifest) -> int:
        """Compare every file with its checksum; returns the bytes read."""

    def drop(self, name: str) -> None:
        """Remove a version."""

    def read_file(self, path: str) -> bytes | None:
        """A small file beside the versions; None: it is not there."""

    def write_file(self, path: str, data: bytes) -> None:
        """Write a small file beside the versions, atomically: readers see the previous one or this one."""

    def remove_file(self, path: str) -> None:
        """Remove a file beside the versions, if it is there."""


class PinnedFiles(NamedTuple):
    """Verified files of a version on this machine, which stay there until they are released."""

    location: Path  # Laid out as an index location: LOCATION/<version>/…, with the requested files.
    release: Callable[[], None]


class Directory:
    """A location on a disk of this machine: shards map its files in place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def current(self) -> str:
        return version.read_current(self.path)

    def make_current(self, name: str) -> None:
        try:
            version.make_current(self.path, name)
        except OSError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def canary(self) -> Canary | None:
        path = self.path / CANARY
        try:
            canary = parse_canary(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise BadArtifact(f"{path}: {error}") from error
        version.parse_version_name(canary.version, str(path))
        return canary

    def set_canary(self, canary: Canary | None) -> None:
        try:
            if canary is None:
                (self.path / CANARY).unlink(missing_ok=True)
            else:
                version.replace_file(self.path / CANARY, dump_canary(canary))
        except OSError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def list_versions(self) -> list[str]:
        try:
            return version.filter_version_names(entry.name for entry in self.path.iterdir() if entry.is_dir())
        except OSError as error:
            raise BadArtifact(f"{self.path}: no index here: {error}") from error

    def read_manifest(self, name: str) -> Manifest:
        return version.read_manifest(self.path, name)

    def verify(self, manifest: Manifest) -> int:
        return version.verify(self.path / manifest.version, manifest)

    def drop(self, name: str) -> None:
        try:
            version.drop_version(self.path, name)
        except OSError as error:
            raise OperatorError(f"{self.path}: {error}") from error

    def read_file(self, path: str) -> bytes | None:
        try:
            return (self.path / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OperatorError(f"{self.path}/{path}: {error.strerror}") from error

    def write_file(self, path: str, data: bytes) -> None:
        try:
            (self.path / path).parent.mkdir(parents=True, exist_ok=True)
            version.replace_file(self.path / path, data)
        except OSError as error:
            raise OperatorError(f"{self.path}/{path}: {error.strerror}") from error

    def remove_file(self, path: str) -> None:
        try:
            (self.path / path).unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(f"{self.path}/{path}: {error.strerror}") from error

    def pin(self, manifest: Manifest, part: str) -> PinnedFiles:
        """Verify the files of a part, as `shard-00000`, in place: there is nothing to fetch or to lock."""
        version.verify(self.path / manifest.version, manifest, prefix=f"{part}/")
        return PinnedFiles(self.path, lambda: None)


def open_location(where: str, options: str = "") -> Directory | ObjectStore:
    """A path, or a URL with its filesystem's options as a JSON object. Raises BadSettings, OperatorError."""
    if "://" not in where:
        return Directory(Path(where))
    try:
        parsed = parse_json(options or "{}")
    except ValueError as error:
        raise BadSettings(f"storage options: not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadSettings("storage options: not a JSON object")
    return ObjectStore(where, parsed)
