"""The step `retain`: removes versions, and trained encoders, that nothing needs any more. Removes files.

Live logs are not touched: a shard keeps them on its own disk by version, and what it has taken over into the version
that serves now it drops by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.product import model as product_encoder
from encoders.text import model as text_encoder
from lookalike.errors import BadArtifact
from lookalike.releases.location import Directory
from lookalike.releases.records import read_record
from lookalike.releases.retention import KeptVersion, removable_versions
from lookalike.releases.store import ObjectStore
from lookalike.strict_json import parse_json
from lookalike.timestamps import unix_time_s
from pipeline.update.live import current_name
from pipeline.update_lock import lock_directory

UNUSED_S = 7 * 86_400.0  # Since an update last used an encoder: others may share the directory of encoders.


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """What was removed, and what could not be."""

    versions: tuple[str, ...]
    encoders: tuple[str, ...]
    failed: tuple[str, ...] = ()  # Sentences.

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if not (self.versions or self.encoders or self.failed):
            return "nothing to remove"
        lines = [f"removed version {name}" for name in self.versions]
        lines += [f"removed encoder {name}" for name in self.encoders]
        return "; ".join([*lines, *self.failed])


def list_releases(location: Directory | ObjectStore) -> list[KeptVersion]:
    """The versions of a location with what decides whether they are kept; one that is damaged is left alone."""
    found = []
    for name in location.list_versions():
        try:
            made_by_update = location.read_manifest(name).origin is not None
            record = read_record(location, name)
        except BadArtifact:
            continue
        # One that has never served, as the gate refused it, goes before any that has.
        made_at = record.made_at if record is not None and record.events else ""
        found.append(KeptVersion(name=name, made_at=made_at, made_by_update=made_by_update))
    return found


def removable(location: Directory | ObjectStore, *, keep: int, pinned: Collection[str] = ()) -> list[str]:
    """The versions of a location that may be removed, the oldest first; a canary stays."""
    current, canary = current_name(location), location.canary()
    record = None
    if current:
        with suppress(BadArtifact):
            record = read_record(location, current)
    return removable_versions(
        list_releases(location),
        current=current,
        replaced=record.replaced if record is not None else "",
        pinned=[*pinned, *([canary.version] if canary else [])],
        keep=keep,
    )


def retain(
    location: Directory | ObjectStore, directory: Path, artifacts: Path, *, keep: int, pinned: Collection[str] = ()
) -> Retained:
    """Remove what nothing needs; what cannot be removed is told, and tried again by the next update.

    directory: where versions are built: for a URL the staging directory, which keeps the one that serves.
    """
    removed, failed = [], []
    for name in removable(location, keep=keep, pinned=pinned):
        try:
            location.drop(name)
        except BadArtifact as error:
            failed.append(str(error))
        else:
            removed.append(name)
    if isinstance(location, ObjectStore):
        staged, current = Directory(directory), current_name(location)
        for name in staged.list_versions():
            with suppress(BadArtifact):  # It is no version.
                if name not in (current, *pinned) and staged.read_manifest(name):
                    staged.drop(name)
    needed = _encoders_of(location)
    encoders = _drop_encoders(artifacts, needed) if artifacts.is_dir() else []
    return Retained(versions=tuple(removed), encoders=tuple(encoders), failed=tuple(failed))


def _encoders_of(location: Directory | ObjectStore) -> set[str]:
    """The fingerprints of the encoders of all versions that are left."""
    needed: set[str] = set()
    for name in location.list_versions():
        with suppress(BadArtifact):
            needed |= {space.encoder for space in location.read_manifest(name).spaces}
    return needed


def _drop_encoders(artifacts: Path, needed: Collection[str]) -> list[str]:
    """Remove encoders that no version has and no update has used for a while, with what is noted of them."""
    oldest_s = unix_time_s() - UNUSED_S
    with lock_directory(artifacts, wait=True):
        unused = sorted(
            path
            for path in artifacts.iterdir()
            if path.name not in needed and path.is_dir() and path.stat().st_mtime < oldest_s and _is_encoder(path)
        )
        names = [path.name for path in unused]
        for entry in [*_entries_of(artifacts, names), *(artifacts / f"fit-{name}.json" for name in names)]:
            entry.unlink(missing_ok=True)
        for path in unused:
            shutil.rmtree(path)
    return names


def _is_encoder(path: Path) -> bool:
    for read in (text_encoder.read_manifest, product_encoder.read_manifest):
        with suppress(BadArtifact):
            read(path)
            return True
    return False


def _entries_of(artifacts: Path, fingerprints: Collection[str]) -> Iterable[Path]:
    """The entries of the training cache that name one of these encoders."""
    for entry in artifacts.glob("trained-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if parse_json(entry.read_text(encoding="utf-8"))["fingerprint"] in fingerprints:
                yield entry
