"""Shards of versions from an object store, kept on a disk of this machine within a bound. Does file and network I/O.

    DIRECTORY/.lock                            held while entries come and go: processes may share a directory
    DIRECTORY/<version>-shard-00000/           an entry: a location that holds one shard of one version
    DIRECTORY/<version>-shard-00000/.lock      held (shared) by each process that uses the entry; its time: the last use
    DIRECTORY/.part-…/                         an entry that is being fetched, its space taken already, or a damaged one

The kernel lets go of locks when a process dies. So what nobody holds may go: the least recently used entries when
there must be room, and parts whose process is gone.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from index.storage import version
from index.storage.location import Held
from index.storage.manifest import FileEntry, Manifest
from index.storage.names import shard_name
from index.storage.store import Store
from lookalike.errors import BadArtifact, OperatorError, Unavailable
from lookalike.runtime import directory_lock
from lookalike.runtime.directory_lock import LOCK_FILE, DirectoryLock

_PART = ".part-"
_ENTRY = re.compile(r".+-shard-\d{5}")
_FILES_AT_ONCE = 4


class Cache:
    """stopped: asked between two pieces of a file, so that a process need not wait for a long fetch to end."""

    def __init__(self, store: Store, directory: Path, max_bytes: int, stopped: Callable[[], bool]) -> None:
        self._store = store
        self._directory = directory
        self._max_bytes = max_bytes
        self._stopped = stopped

    def hold(self, manifest: Manifest, shard: int) -> Held:
        """The files of a shard, fetched unless they are here. Undamaged, and not to go before they are released.

        Raises BadArtifact for what is missing or damaged in the store; OperatorError where there is no room.
        """
        below = shard_name(shard) + "/"
        files = {path: entry for path, entry in manifest.files.items() if path.startswith(below)}
        entry = self._directory / f"{manifest.version}-{shard_name(shard)}"
        try:
            return self._here(entry, manifest, below) or self._fetched(entry, manifest, files)
        except OSError as error:
            raise OperatorError(f"{self._directory}: {error}") from error

    def _here(self, entry: Path, manifest: Manifest, below: str) -> Held | None:
        """The entry, verified; None where there is none, or a damaged one, which is then put out of the way."""
        with self._locked():
            if not entry.is_dir():
                return None
            held = _held(entry)
        try:
            version.verify(entry / manifest.version, manifest, below)
        except BadArtifact:
            held.release()
            with self._locked():
                if entry.is_dir():  # Else another process has found out, too.
                    entry.rename(self._new_part())
            return None
        return held

    def _fetched(self, entry: Path, manifest: Manifest, files: Mapping[str, FileEntry]) -> Held:
        part, lock = self._begun(manifest, files)
        try:
            with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
                for _ in threads.map(lambda path: self._fetch(part, f"{manifest.version}/{path}", files[path]), files):
                    pass
            with self._locked():
                lock.release()  # It moves with the directory; the entry gets one of its own.
                if not entry.is_dir():  # Else another process was faster.
                    part.rename(entry)
                return _held(entry)
        finally:
            with self._locked():
                shutil.rmtree(part, ignore_errors=True)  # Unless it is the entry now.
            lock.release()

    def _begun(self, manifest: Manifest, files: Mapping[str, FileEntry]) -> tuple[Path, DirectoryLock]:
        """A part, locked, in which all files have their size already: a disk that is full is noticed now."""
        with self._locked():
            self._make_room(manifest.version, sum(file.bytes for file in files.values()))
            part = self._new_part()
            lock = directory_lock.acquire(part)
            try:
                (part / manifest.version).mkdir()
                version.write(part / manifest.version, manifest)
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
                if self._stopped():
                    raise Unavailable(f"{self._store}/{path}: not fetched to its end: the process stops")
                file.write(piece)

    def _new_part(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=_PART, dir=self._directory))

    def _make_room(self, name: str, wanted_bytes: int) -> None:
        """Raises OperatorError where what is in use leaves too little."""
        for part in self._directory.glob(f"{_PART}*"):
            _remove_unused(part)
        entries = [each for each in self._directory.iterdir() if _ENTRY.fullmatch(each.name) or _is_part(each)]
        sizes = {each: _size_of(each) for each in entries}
        for entry in sorted((each for each in entries if not _is_part(each)), key=_last_used):
            if sum(sizes.values()) + wanted_bytes <= self._max_bytes:
                break
            if _remove_unused(entry):
                del sizes[entry]
        if (used := sum(sizes.values())) + wanted_bytes > self._max_bytes:
            raise OperatorError(
                f"{self._directory}: no room for version {name}: a shard of it has {wanted_bytes} bytes, "
                f"and of the {self._max_bytes} that may be kept {used} are in use"
            )

    def _locked(self) -> DirectoryLock:
        self._directory.mkdir(parents=True, exist_ok=True)
        return directory_lock.acquire(self._directory)


def _held(entry: Path) -> Held:
    """The entry, marked as used now; to be called with the directory locked."""
    lock = directory_lock.acquire(entry, shared=True)
    os.utime(entry / LOCK_FILE)
    return Held(entry, lock.release)


def _remove_unused(directory: Path) -> bool:
    """Whether it is gone: it stays while a process holds its lock. To be called with the whole directory locked."""
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


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
