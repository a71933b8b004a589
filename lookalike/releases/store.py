"""Versions of an index in an object store, by fsspec: s3://, gs://, memory://, … Does network I/O.

A version's files are uploaded before its manifest, and CURRENT is written last, by one request: a reader meanwhile
finds the previous version. Addresses and credentials come from where the store's own library looks for them, in the
environment or its files, unless they are passed as options.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases import version
from lookalike.releases.manifest import FileEntry, Manifest
from lookalike.releases.version import CURRENT, MANIFEST

# Files are read in pieces, one request each.
_CONCURRENT_FILES = 4
_PIECE_BYTES = 8 << 20


class ObjectStore:
    """A location named by a URL.

    options: what the filesystem of the URL's scheme takes, say {"key": …, "secret": …} of s3fs.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url.rstrip("/")
        try:
            filesystem, root = fsspec.url_to_fs(self._url, **{"use_listings_cache": False, **options})
        except (ImportError, ValueError, TypeError) as error:
            raise OperatorError(f"{self._url}: {error}") from error
        self._filesystem: Any = filesystem  # fsspec has no types.
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def current(self) -> str:
        return version.parse_version_name(self._read_text(CURRENT), f"{self._url}/{CURRENT}")

    def make_current(self, name: str) -> None:
        with self._translate_errors(CURRENT):
            self._filesystem.pipe_file(self._path(CURRENT), f"{name}\n".encode())

    def list_versions(self) -> list[str]:
        return version.filter_version_names(name for name, kind in self._list_entries("") if kind == "directory")

    def read_manifest(self, name: str) -> Manifest:
        path = f"{version.parse_version_name(name, self._url)}/{MANIFEST}"
        return version.parse_manifest_of(name, self._read_text(path), f"{self._url}/{path}")

    def verify(self, manifest: Manifest) -> int:
        def verify_file(path: str, expected: FileEntry) -> int:
            for _ in self.pieces(f"{manifest.version}/{path}", expected):
                pass
            return expected.bytes

        with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
            return sum(threads.map(verify_file, manifest.files.keys(), manifest.files.values()))

    def drop(self, name: str) -> None:
        directory = version.parse_version_name(name, self._url)
        entries = [entry for entry, _ in self._list_entries(directory)]
        version.check_contents(entries, f"{self._url}/{directory}")
        with self._translate_errors(directory):
            if MANIFEST in entries:  # Removed first: if interrupted, what is left is no version.
                self._filesystem.rm_file(self._path(f"{directory}/{MANIFEST}"))
            self._filesystem.rm(self._path(directory), recursive=True)

    def publish(self, location: Path, name: str) -> None:
        """Upload a version from a directory on this machine, and let it serve."""
        self.upload(location, name)
        self.make_current(name)

    def upload(self, location: Path, name: str) -> None:
        """Upload a version from a directory on this machine, its manifest last."""
        manifest = version.read_manifest(location, name)

        def upload(path: str) -> None:
            with self._translate_errors(f"{name}/{path}"):
                self._filesystem.makedirs(self._path(f"{name}/{path}").rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(str(location / name / path), self._path(f"{name}/{path}"))

        with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
            for _ in threads.map(upload, manifest.files):
                pass
        upload(MANIFEST)

    def download(self, name: str, location: Path) -> None:
        """Fetch a whole version into a directory on this machine, verified; a part of one never has its name there."""
        manifest = self.read_manifest(name)
        staged = location / f".download-{name}-{os.getpid()}"

        def download(path: str, expected: FileEntry) -> None:
            target = staged / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for piece in self.pieces(f"{name}/{path}", expected):
                    file.write(piece)

        try:
            with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
                for _ in threads.map(download, manifest.files.keys(), manifest.files.values()):
                    pass
            version.write_manifest(staged, manifest)
            shutil.rmtree(location / name, ignore_errors=True)
            staged.rename(location / name)
        except OSError as error:
            raise OperatorError(f"{location}: {error}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def read_file(self, path: str) -> bytes | None:
        try:
            with self._translate_errors(path):
                data: bytes = self._filesystem.cat_file(self._path(path))
        except BadArtifact:  # Not found.
            return None
        return data

    def write_file(self, path: str, data: bytes) -> None:
        with self._translate_errors(path):
            self._filesystem.makedirs(self._path(path).rpartition("/")[0], exist_ok=True)
            self._filesystem.pipe_file(self._path(path), data)

    def create_file(self, path: str, data: bytes) -> bool:
        """Write a file unless it is there; returns whether it was written.

        Of two at once, one succeeds where the store can refuse the other (S3's If-None-Match, and memory); elsewhere
        both may, and who was last is read back.
        """
        try:
            with self._translate_errors(path):
                self._filesystem.makedirs(self._path(path).rpartition("/")[0], exist_ok=True)
                self._filesystem.pipe_file(self._path(path), data, mode="create")
        except OperatorError:
            if self.read_file(path) is None:
                raise
            return False
        return True

    def remove_file(self, path: str) -> None:
        with suppress(BadArtifact), self._translate_errors(path):
            self._filesystem.rm_file(self._path(path))

    def pieces(self, path: str, expected: FileEntry) -> Iterator[bytes]:
        """Read a file piece by piece. Raises BadArtifact, after the last piece, where its size or checksum differs."""
        digest, count = hashlib.sha256(), 0
        with self._translate_errors(path):
            file = self._filesystem.open(self._path(path), "rb", block_size=_PIECE_BYTES, cache_type="none")
        with file:
            while True:
                with self._translate_errors(path):
                    piece: bytes = file.read(_PIECE_BYTES)
                count += len(piece)
                if not piece or count > expected.bytes:
                    break
                digest.update(piece)
                yield piece
        if count != expected.bytes:
            raise BadArtifact(f"{self._url}/{path}: has {count} bytes or more, expected {expected.bytes}")
        if digest.hexdigest() != expected.sha256:
            raise BadArtifact(f"{self._url}/{path}: damaged: its checksum differs")

    def _list_entries(self, path: str) -> list[tuple[str, str]]:
        """Names and types of the entries of a directory."""
        with self._translate_errors(path):
            entries = self._filesystem.ls(self._path(path).rstrip("/"), detail=True)
        return [(entry["name"].rstrip("/").rpartition("/")[2], entry["type"]) for entry in entries]

    def _read_text(self, path: str) -> str:
        with self._translate_errors(path):
            data: bytes = self._filesystem.cat_file(self._path(path))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BadArtifact(f"{self._url}/{path}: {error}") from error

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _translate_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BadArtifact(f"{self._url}/{path}: not found") from error
        except Exception as error:  # Every store's client has errors of its own, without a common ancestor.
            raise OperatorError(f"{self._url}/{path}: {type(error).__name__}: {error}") from error
