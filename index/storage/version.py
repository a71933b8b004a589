"""Versions on disk: LOCATION/<version>/, and LOCATION/CURRENT, which names the one that serves. Does file I/O."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from index.storage.manifest import FileEntry, Manifest, dumped, parsed
from lookalike.errors import BadArtifact

MANIFEST = "manifest.json"
CURRENT = "CURRENT"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


def current(location: Path) -> str:
    """The version that serves. Raises BadArtifact."""
    try:
        name = (location / CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{location / CURRENT}: no index here: {error}") from error
    if not _NAME.fullmatch(name):
        raise BadArtifact(f"{location / CURRENT}: not the name of a version: {name[:80]!r}")
    return name


def make_current(location: Path, version: str) -> None:
    """Let `version` serve: one atomic rename."""
    staged = location / f".{CURRENT}"
    staged.write_text(version + "\n", encoding="utf-8")
    sync(staged)
    staged.replace(location / CURRENT)
    sync(location)


def read(location: Path, version: str) -> Manifest:
    """The manifest of a version; its files are not looked at. Raises BadArtifact."""
    if not _NAME.fullmatch(version):
        raise BadArtifact(f"{location}: not the name of a version: {version[:80]!r}")
    path = location / version / MANIFEST
    try:
        manifest = parsed(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if manifest.version != version:
        raise BadArtifact(f"{path}: is the manifest of version {manifest.version}")
    return manifest


def write(directory: Path, manifest: Manifest) -> None:
    path = directory / MANIFEST
    path.write_text(dumped(manifest), encoding="utf-8")
    sync(path)


def verify(directory: Path, manifest: Manifest, below: str = "") -> int:
    """Compare every file (whose path begins with `below`) with its checksum; returns the bytes read.

    Raises BadArtifact naming the file that is missing, truncated or changed.
    """
    read_bytes = 0
    for path, expected in manifest.files.items():
        if not path.startswith(below):
            continue
        file = directory / path
        if not file.resolve().is_relative_to(directory.resolve()):
            raise BadArtifact(f"{file}: a link out of the version")
        try:
            size = file.stat().st_size
            if size != expected.bytes:
                raise BadArtifact(f"{file}: has {size} bytes, not {expected.bytes}")
            if entry(file) != expected:
                raise BadArtifact(f"{file}: damaged: its checksum differs")
        except OSError as error:
            raise BadArtifact(f"{file}: {error}") from error
        read_bytes += size
    return read_bytes


def entry(file: Path) -> FileEntry:
    with file.open("rb") as opened:
        return FileEntry(bytes=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
