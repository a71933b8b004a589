"""A bounded cache, on this machine's disk, of parts of versions from an object store. Does file and network I/O.

    DIRECTORY/.lock                            held while entries are added or removed: processes may share a directory
    DIRECTORY/<version>-shard-00000/           an entry: a location that holds one part of one version
    DIRECTORY/<version>-shard-00000/.lock      held (shared) by each process that uses the entry; mtime: last use
    DIRECTORY/.part-…/                         an entry that is being fetched, its space allocated; or a damaged one

The kernel releases locks when a process dies. So an entry or part that is not locked may be removed: the least recently
used entries when room is needed, and parts of dead processes.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from lookalike.errors import BadArtifact, OperatorError, Unavailable
from lookalike.releases import version
from lookalike.releases.location import PinnedFiles
from lookalike.releases.manifest import FileEntry, Manifest
from lookalike.releases.store import ObjectStore
from lookalike.runtime import directory_lock
from lookalike.runtime.directory_lock import LOCK_FILE, DirectoryLock

_PART = ".part-"
_ENTRY = re.compile(r".+-(shard-\d{5}|encoders)")
_CONCURRENT_FILES = 4


class FileCache:
    """Keeps the files of parts of versions below a directory.

    max_bytes:   of all entries together.
    is_stopping: called between two pieces of a file, so that a stopping process need not wait for a long fetch.
    """

    def __init__(self, store: ObjectStore, directory: Path, max_bytes: int, is_stopping: Callable[[], bool]) -> None:
        self._store = store
        self._directory = directory
        self._max_bytes = max_bytes
        self._is_stopping = is_stopping

    def pin(self, manifest: Manifest, part: str) -> PinnedFiles:
        """The verified files of a part, as `shard-00000`, fetched unless they are cached. They stay until released.

        Raises BadArtifact for what is missing or damaged in the store; OperatorError where there is no room.
        """
        prefix = f"{part}/"
        files = {path: entry for path, entry in manifest.files.items() if path.startswith(prefix)}
        entry = self._directory / f"{manifest.version}-{part}"
        try:
            return self._pin_cached(entry, manifest, prefix) or self._fetch_and_pin(entry, manifest, files)
        except OSError as error:
            raise OperatorError(f"{self._directory}: {error}") from error

    def _pin_cached(self, entry: Path, manifest: Manifest, prefix: str) -> PinnedFiles | None:
        """Pin and verify a cached entry; None if there is none. A damaged one is moved out of the way: None, too."""
        with self._lock_directory():
            if not entry.is_dir():
                return None
            pinned = _pin_entry(entry)
        try:
            version.verify(entry / manifest.version, manifest, prefix)
        except BadArtifact:
            pinned.release()
            with self._lock_directory():
                if entry.is_dir():  # Another process may have moved it already.
                    entry.rename(self._create_part())
            return None
        return pinned

    def _fetch_and_pin(self, entry: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> PinnedFiles:
        part, lock = self._allocate_part(manifest, files)
        try:
            with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
                for _ in threads.map(lambda path: self._fetch(part, f"{manifest.version}/{path}", files[path]), files):
                    pass
            with self._lock_directory():
                lock.release()  # The lock file moves with the directory; the entry is locked anew.
                if not entry.is_dir():  # Another process may have been faster.
                    part.rename(entry)
                return _pin_entry(entry)
        finally:
            with self._lock_directory():
                shutil.rmtree(part, ignore_errors=True)  # Does nothing if it has become the entry.
            lock.release()

    def _allocate_part(self, manifest: Manifest, files: Mapping[str, FileEntry]) -> tuple[Path, DirectoryLock]:
        """A new part, locked, with all files at their final size, so that a full disk is noticed before the fetch."""
        with self._lock_directory():
            self._make_room(manifest.version, sum(file.bytes for file in files.values()))
            part = self._create_part()
            lock = directory_lock.acquire(part)
            try:
                (part / manifest.version).mkdir()
                version.write_manifest(part / manifest.version, manifest)
                for path, expected in files.items():
                    file = part / manifest.version / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with file.open("wb") as opened:
                        if expected.bytes:
                            os.posix_fallocate(opened.fileno(), 0, expected.bytes)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                lock.release()
                raise
            return part, lock

    def _fetch(self, part: Path, path: str, expected: FileEntry) -> None:
        with (part / path).open("r+b") as file:
            for piece in self._store.pieces(path, expected):
                if self._is_stopping():
                    raise Unavailable(f"{self._store}/{path}: fetch interrupted: the process is stopping")
                file.write(piece)

    def _create_part(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=_PART, dir=self._directory))

    def _make_room(self, name: str, needed_bytes: int) -> None:
        """Remove unused entries. Raises OperatorError where those in use leave too little."""
        for part in self._directory.glob(f"{_PART}*"):
            _remove_unused(part)
        entries = [path for path in self._directory.iterdir() if _ENTRY.fullmatch(path.name) or _is_part(path)]
        sizes = {path: _directory_bytes(path) for path in entries}
        for entry in sorted((path for path in entries if not _is_part(path)), key=_last_used):
            if sum(sizes.values()) + needed_bytes <= self._max_bytes:
                break
            if _remove_unused(entry):
                del sizes[entry]
        if (used := sum(sizes.values())) + needed_bytes > self._max_bytes:
            raise OperatorError(
                f"{self._directory}: no room for version {name}: a part of it has {needed_bytes} bytes, "
                f"and {used} of the {self._max_bytes} bytes allowed are in use"
            )

    def _lock_directory(self) -> DirectoryLock:
        self._directory.mkdir(parents=True, exist_ok=True)
        return directory_lock.acquire(self._directory)


def _pin_entry(entry: Path) -> PinnedFiles:
    """The entry, marked as used now; call it with the directory locked."""
    lock = directory_lock.acquire(entry, shared=True)
    now_ns = time.time_ns()  # The kernel's own time for this changes every few milliseconds only: uses would be equal.
    os.utime(entry / LOCK_FILE, ns=(now_ns, now_ns))
    return PinnedFiles(entry, lock.release)


def _remove_unused(directory: Path) -> bool:
    """Remove it unless a process holds its lock; return whether it is gone. Call it with the directory locked."""
    lock = directory_lock.try_acquire(directory)
    if lock is None:
        return False
    with lock:
        shutil.rmtree(directory)
    return True


def _is_part(directory: Path) -> bool:
    return directory.name.startswith(_PART)


def _last_used(entry: Path) -> int:
    with suppress(OSError):
        return (entry / LOCK_FILE).stat().st_mtime_ns
    return 0


def _directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
