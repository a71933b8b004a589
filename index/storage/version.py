"""Versions on disk: LOCATION/<version>/, and LOCATION/CURRENT, which names the one that serves. Does file I/O."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from index.storage.manifest import FileEntry, Manifest, dumped, parsed
from lookalike.errors import BadArtifact, OperatorError
from lookalike.runtime import directory_lock

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
_SHARD = re.compile(r"shard-\d{5}")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def current(location: Path) -> str:
    """The version that serves. Raises BadArtifact."""
    path = location / CURRENT
    try:
        return named(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: no index here: {error}") from error


def named(text: str, where: str) -> str:
    """The name of a version, as CURRENT has it: no path leads out of the location. Raises BadArtifact."""
    if not _NAME.fullmatch(name := text.strip()):
        raise BadArtifact(f"{where}: not the name of a version: {name[:80]!r}")
    return name


def names(entries: Iterable[str]) -> list[str]:
    """Which entries of a location's directory can be versions."""
    return sorted(entry for entry in entries if _NAME.fullmatch(entry) and entry != CURRENT)


def make_current(location: Path, version: str) -> None:
    """Let `version` serve: one atomic rename."""
    replace(location / CURRENT, version + "\n")


def check_contents(entries: Iterable[str], where: str) -> None:
    """Whether a directory holds what a version does and nothing else, so that all may go. Raises BadArtifact."""
    if foreign := sorted(entry for entry in entries if entry != MANIFEST and not _SHARD.fullmatch(entry)):
        raise BadArtifact(f"{where}: not a version: it holds {foreign[0]}")


@contextmanager
def alone(location: Path) -> Iterator[None]:
    """One at a time adds or removes versions. Raises OperatorError while another does."""
    lock = directory_lock.try_acquire(location)
    if lock is None:
        raise OperatorError(f"{location}: another build is under way here")
    with lock:
        yield


def read(location: Path, version: str) -> Manifest:
    """The manifest of a version; its files are not looked at. Raises BadArtifact."""
    path = location / named(version, str(location)) / MANIFEST
    try:
        return parsed_as(version, path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: {error}") from error


def parsed_as(version: str, text: str, where: str) -> Manifest:
    """The manifest of that version and no other. Raises BadArtifact."""
    manifest = parsed(text, where)
    if manifest.version != version:
        raise BadArtifact(f"{where}: is the manifest of version {manifest.version}")
    return manifest


def write(directory: Path, manifest: Manifest) -> None:
    path = directory / MANIFEST
    path.write_text(dumped(manifest), encoding="utf-8")
    sync(path)


def drop(location: Path, version: str) -> None:
    """Remove a version; without its manifest it is none any more, should this be interrupted. Raises BadArtifact."""
    directory = location / named(version, str(location))
    with alone(location):
        check_contents((entry.name for entry in directory.iterdir()), str(directory))
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory)


def verify(directory: Path, manifest: Manifest, below: str = "") -> int:
    """Compare every file (whose path begins with `below`) with its checksum; returns the bytes read.

    Raises BadArtifact naming the file that is missing, truncated or changed.
    """
    root = directory.resolve()

    def verified(path: str, expected: FileEntry) -> int:
        file = directory / path
        if not file.resolve().is_relative_to(root):
            raise BadArtifact(f"{file}: a link out of the version")
        try:
            size = file.stat().st_size
            if size != expected.bytes:
                raise BadArtifact(f"{file}: has {size} bytes, not {expected.bytes}")
            if entry(file) != expected:
                raise BadArtifact(f"{file}: damaged: its checksum differs")
        except OSError as error:
            raise BadArtifact(f"{file}: {error}") from error
        return size

    files = {path: expected for path, expected in manifest.files.items() if path.startswith(below)}
    with ThreadPoolExecutor() as threads:  # Hashing needs no interpreter: a thread is a core.
        return sum(threads.map(verified, files.keys(), files.values()))


def entries(files: Iterable[Path]) -> list[FileEntry]:
    with ThreadPoolExecutor() as threads:
        return [*threads.map(entry, files)]


def entry(file: Path) -> FileEntry:
    with file.open("rb") as opened:
        return FileEntry(bytes=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())


def replace(path: Path, text: str) -> None:
    """Write a file by rename: a crash leaves the one before or this one. It is on the disk afterwards."""
    staged = path.with_name(f".{path.name}")
    staged.write_text(text, encoding="utf-8")
    sync(staged)
    staged.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
