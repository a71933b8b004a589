"""The files of a directory that no one changes once they are written: on a disk, or in an object store by fsspec.

Does disk and network I/O. A file is there whole or not at all: on a disk it is written under another name, fsynced and
renamed; an object store does the same by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from lookalike.errors import OperatorError
from lookalike.releases.version import fsync_path
from lookalike.vectors import F32

STAGED = ".staged-"  # Beginning of the names of files that are being written.


class FileGone(Exception):
    """A file was removed by another process."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file as it is listed."""

    bytes: int
    modified_s: float  # Seconds since 1970; 0: unknown.


class Root:
    """Where the directories are: a path, or a URL with its filesystem's options."""

    def __init__(self, where: str | Path, options: Mapping[str, Any]) -> None:
        self.where = str(where).rstrip("/")
        try:
            if "://" in self.where:
                filesystem, path = fsspec.url_to_fs(self.where, **{"use_listings_cache": False, **options})
            else:
                filesystem, path = fsspec.filesystem("file"), str(Path(self.where).absolute())
        except (ImportError, ValueError, TypeError) as error:
            raise OperatorError(f"{self.where}: {error}") from error
        self.filesystem: Any = filesystem  # fsspec has no types.
        self.path = path.rstrip("/")

    @property
    def local_path(self) -> Path | None:
        """The path on a disk of this machine."""
        protocols = self.filesystem.protocol
        is_local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)
        return Path(self.path) if is_local else None


class Directory:
    """The files of one directory. It is made with its first file."""

    def __init__(self, root: Root, path: str) -> None:
        self._filesystem = root.filesystem
        self._path = f"{root.path}/{path}"
        self._local = None if root.local_path is None else root.local_path / path
        self._where = f"{root.where}/{path}"

    def __str__(self) -> str:
        return self._where

    def files(self) -> dict[str, FileStatus]:
        """The files in order of their names; none if there is no such directory."""
        try:
            with self._translate_errors(""):
                entries = self._filesystem.ls(self._path, detail=True)
        except FileGone:
            return {}
        files = {
            entry["name"].rstrip("/").rpartition("/")[2]: FileStatus(int(entry["size"] or 0), _modified_s(entry))
            for entry in entries
            if entry["type"] == "file"
        }
        return dict(sorted(files.items()))

    def directories(self) -> list[str]:
        """The names of the directories in it, sorted."""
        try:
            with self._translate_errors(""):
                entries = self._filesystem.ls(self._path, detail=True)
        except FileGone:
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")

    def write(self, name: str, data: pa.Buffer) -> None:
        """Write a new file. Raises OperatorError that names it, if the disk is full for example; it is not there."""
        if self._local is None:
            with self._translate_errors(name):
                self._filesystem.pipe_file(f"{self._path}/{name}", data.to_pybytes())
            return
        staged = self._local / f"{STAGED}{name}"
        with self._translate_errors(name):
            self._local.mkdir(parents=True, exist_ok=True)
            try:
                with staged.open("wb", buffering=0) as file:
                    view = memoryview(data)
                    while view:  # A write may be short, of a file near the process's limit for example.
                        view = view[file.write(view) :]
                    os.fsync(file.fileno())
                staged.replace(self._local / name)
                fsync_path(self._local)
            except BaseException:
                with contextlib.suppress(OSError):
                    staged.unlink(missing_ok=True)
                raise

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file to read as pyarrow does. Raises FileGone, OperatorError."""
        with self._translate_errors(name):
            path = f"{self._path}/{name}"
            file = pa.OSFile(path) if self._local else self._filesystem.open(path, "rb", cache_type="none")
        with file:
            yield file

    def read_into(self, name: str, starts: Sequence[int], pieces: Sequence[F32]) -> None:
        """Fill each piece, a contiguous array, with the bytes from its start on; zeros after the end of the file.

        Raises FileGone, OperatorError.
        """
        with self._translate_errors(name):
            if self._local is None:
                ends = [start + piece.nbytes for start, piece in zip(starts, pieces, strict=True)]
                read = self._filesystem.cat_ranges([f"{self._path}/{name}"] * len(pieces), list(starts), ends)
                for piece, data in zip(pieces, read, strict=True):
                    if isinstance(data, Exception):
                        raise data
                    _fill(piece, data)
                return
            descriptor = os.open(self._local / name, os.O_RDONLY)
            try:
                for start, piece in zip(starts, pieces, strict=True):
                    _read_at(descriptor, start, piece.reshape(-1).view(np.uint8).data)
            finally:
                os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, unless it is gone already."""
        with contextlib.suppress(FileGone), self._translate_errors(name):
            self._filesystem.rm_file(f"{self._path}/{name}")

    def remove_all(self) -> None:
        """Remove the directory and all that is in it."""
        with contextlib.suppress(FileGone), self._translate_errors(""):
            self._filesystem.rm(self._path, recursive=True)

    @contextmanager
    def _translate_errors(self, name: str) -> Iterator[None]:
        path = f"{self._where}/{name}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise FileGone(path) from error
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror or error}") from error
        except Exception as error:  # Every store's client has errors of its own, without a common ancestor.
            raise OperatorError(f"{path}: {type(error).__name__}: {error}") from error


def _read_at(descriptor: int, start: int, view: memoryview) -> None:
    while view:
        count = os.preadv(descriptor, [view], start)
        if count == 0:
            view[:] = bytes(len(view))
            return
        view, start = view[count:], start + count


def _fill(piece: F32, data: bytes) -> None:
    flat = piece.reshape(-1).view(np.uint8)
    flat[: len(data)] = np.frombuffer(data, np.uint8)
    flat[len(data) :] = 0


def _modified_s(entry: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "updated", "created"):  # Disk, S3, GCS, memory.
        value = entry.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return 0.0
