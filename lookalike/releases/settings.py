"""The settings of a process that follows a location's CURRENT version. Pure, but for the location that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import BadSettings
from lookalike.releases.cache import FileCache
from lookalike.releases.location import Directory, PinnedFiles, open_location
from lookalike.releases.manifest import Manifest
from lookalike.releases.store import ObjectStore
from lookalike.runtime.settings import ProcessSettings, setting

# Verifies the files of a part of a version and pins them. Raises OperatorError.
PinFiles = Callable[[Manifest, str], PinnedFiles]


@dataclass(frozen=True, kw_only=True)
class LocationSettings(ProcessSettings):
    """Where the versions of an index are."""

    location: str = setting("", "the index, as `index build` or `update` wrote it: a directory or a URL (s3://…)")
    storage_options: str = setting(
        "",
        "options of the URL's fsspec filesystem as a JSON object, added to what its library finds itself",
        secret=True,
    )


@dataclass(frozen=True, kw_only=True)
class FollowSettings(LocationSettings):
    """Which version is served, and how its files get to this machine."""

    cache_dir: Path | None = setting(None, "where the files of an index at a URL are cached; processes may share it")  # noqa: RUF009  # `setting` makes a field, not a value
    cache_bytes: int = setting(
        32 << 30,
        "limit of the cache; must hold at least two versions; the least recently used files are removed first",
        at_least=0,
    )
    version: str = setting("", "the version to serve, always; empty: the one that LOCATION/CURRENT names, following it")
    poll_s: float = setting(5.0, "interval between reads of CURRENT", at_least=0.05, at_most=3600)
    lease_s: float = setting(
        30.0,
        "how long a version is kept after a gateway pinned it; must be more than the gateways' refresh_s",
        at_least=0,
        at_most=3600,
    )


def open_index_location(settings: LocationSettings) -> Directory | ObjectStore:
    """Raises BadSettings."""
    if not settings.location:
        raise BadSettings("--location is missing: the directory or URL of the index")
    return open_location(settings.location, settings.storage_options)


def file_pinner(
    location: Directory | ObjectStore, settings: FollowSettings, is_stopping: Callable[[], bool]
) -> PinFiles:
    """The function that fetches (if needed) and pins the files of a part of a version. Raises BadSettings."""
    if isinstance(location, Directory):
        return location.pin
    if settings.cache_dir is None:
        raise BadSettings(f"--cache-dir is missing: a directory to cache the files of {location} in")
    return FileCache(location, settings.cache_dir, settings.cache_bytes, is_stopping).pin
