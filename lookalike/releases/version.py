"""Versions of an index on disk: LOCATION/<version>/; LOCATION/CURRENT names the one that serves. Does file I/O."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases.manifest import FileEntry, Manifest, dump_manifest, parse_manifest
from lookalike.releases.names import ENCODERS
from lookalike.runtime import directory_lock
from lookalike.runtime.threads import lower_thread_priority

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
RECORDS = "releases"  # The directory of what is recorded of each version: lookalike/releases/records.py.
_PART = re.compile(rf"shard-\d{{5}}|{ENCODERS}")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def read_current(location: Path) -> str:
    """The name of the version that serves. Raises BadArtifact."""
    path = location / CURRENT
    try:
        return parse_version_name(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: no index here: {error}") from error


def parse_version_name(text: str, where: str) -> str:
    """Check a version's name, as CURRENT has it: it must not be a path out of the location. Raises BadArtifact."""
    if not _NAME.fullmatch(name := text.strip()):
        raise BadArtifact(f"{where}: not the name of a version: {name[:80]!r}")
    return name


def is_version_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and text not in (CURRENT, RECORDS)


def filter_version_names(entries: Iterable[str]) -> list[str]:
    """Those entries of a location's directory that can be versions, sorted."""
    return sorted(filter(is_version_name, entries))


def make_current(location: Path, version: str) -> None:
    """Let `version` serve: one atomic rename."""
    replace_file(location / CURRENT, version + "\n")


def check_contents(entries: Iterable[str], where: str) -> None:
    """Check that a directory holds only what a version does, so that all of it may be removed. Raises BadArtifact."""
    if foreign := sorted(entry for entry in entries if entry != MANIFEST and not _PART.fullmatch(entry)):
        raise BadArtifact(f"{where}: not a version: it holds {foreign[0]}")


@contextmanager
def lock_location(location: Path) -> Iterator[None]:
    """Held while versions are added or removed. Raises OperatorError while another process holds it."""
    lock = directory_lock.try_acquire(location)
    if lock is None:
        raise OperatorError(f"{location}: another build is under way here")
    with lock:
        yield


def read_manifest(location: Path, version: str) -> Manifest:
    """The manifest of a version; its other files are not read. Raises BadArtifact."""
    path = location / parse_version_name(version, str(location)) / MANIFEST
    try:
        return parse_manifest_of(version, path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: {error}") from error


def parse_manifest_of(version: str, text: str, where: str) -> Manifest:
    """Parse a manifest that must be this version's. Raises BadArtifact."""
    manifest = parse_manifest(text, where)
    if manifest.version != version:
        raise BadArtifact(f"{where}: is the manifest of version {manifest.version}")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    path = directory / MANIFEST
    path.write_text(dump_manifest(manifest), encoding="utf-8")
    fsync_path(path)


def drop_version(location: Path, version: str) -> None:
    """Remove a version, its manifest first: if interrupted, what is left is no version. Raises BadArtifact."""
    directory = location / parse_version_name(version, str(location))
    with lock_location(location):
        check_contents((entry.name for entry in directory.iterdir()), str(directory))
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory)


def verify(directory: Path, manifest: Manifest, prefix: str = "") -> int:
    """Compare every file (whose path begins with `prefix`) with its checksum; returns the bytes read.

    Raises BadArtifact naming the file that is missing, truncated or changed.
    """
    root = directory.resolve()

    def verify_file(path: str, expected: FileEntry) -> int:
        file = directory / path
        if not file.resolve().is_relative_to(root):
            raise BadArtifact(f"{file}: a link out of the version")
        try:
            size = file.stat().st_size
            if size != expected.bytes:
                raise BadArtifact(f"{file}: has {size} bytes, expected {expected.bytes}")
            if file_entry(file) != expected:
                raise BadArtifact(f"{file}: damaged: its checksum differs")
        except OSError as error:
            raise BadArtifact(f"{file}: {error}") from error
        return size

    files = {path: expected for path, expected in manifest.files.items() if path.startswith(prefix)}
    # Hashing releases the interpreter lock: threads use several cores.
    with ThreadPoolExecutor(initializer=lower_thread_priority) as threads:
        return sum(threads.map(verify_file, files.keys(), files.values()))


def file_entries(files: Iterable[Path]) -> list[FileEntry]:
    with ThreadPoolExecutor() as threads:
        return [*threads.map(file_entry, files)]


def file_entry(file: Path) -> FileEntry:
    with file.open("rb") as opened:
        return FileEntry(bytes=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())


def replace_file(path: Path, text: str | bytes) -> None:
    """Replace a file by rename and fsync: after a crash it has the old text or the new one."""
    staged = path.with_name(f".{path.name}")
    staged.write_bytes(text.encode() if isinstance(text, str) else text)
    fsync_path(staged)
    staged.replace(path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
