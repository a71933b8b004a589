"""Keys in a JSON file, which is replaced as a whole. Does file I/O.

Only its owner may read it, though it has no secret: it tells who may do what.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lookalike.access.key import AccessKey, from_document, parse_json, to_document
from lookalike.access.key_store import StoredKeys, check_identity
from lookalike.errors import BadArtifact, OperatorError, Unavailable

_MODE = 0o600
_MAX_BYTES = 64 << 20


class FileKeyStore:
    """A `KeyStore` in a file `{"keys": [...]}`. A file of a mounted Kubernetes Secret is one, too, to read only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, known: str = "") -> StoredKeys | None:
        try:
            stat = self._path.stat()
            generation = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"
            if generation == known:
                return None
            if stat.st_size > _MAX_BYTES:
                raise BadArtifact(f"{self._path}: has more than {_MAX_BYTES >> 20} MiB")
            return StoredKeys(self._parse(self._path.read_bytes()), generation)
        except FileNotFoundError:
            if known:
                raise Unavailable(f"{self._path}: the file of keys is gone") from None
            return StoredKeys((), "")
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error

    def put(self, key: AccessKey) -> None:
        with self._changing() as keys:
            check_identity(key, [*keys.values()])
            keys[key.id] = key

    def remove(self, id_: str) -> bool:
        with self._changing() as keys:
            return keys.pop(id_, None) is not None

    def close(self) -> None:
        pass

    def _parse(self, data: bytes) -> Sequence[AccessKey]:
        try:
            document = parse_json(data)
            if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
                raise BadArtifact('not an object with a list "keys"')
            keys = [from_document(each) for each in document["keys"]]
        except BadArtifact as error:
            raise BadArtifact(f"{self._path}: {error}") from None
        return sorted(keys, key=lambda key: (key.created_s, key.id))

    @contextmanager
    def _changing(self) -> Iterator[dict[str, AccessKey]]:
        """The keys by id, which are written when the block ends. One process at a time."""
        try:
            with self._locked():
                stored = self.read()
                keys = {key.id: key for key in (stored.keys if stored else ())}
                yield keys
                text = json.dumps({"keys": [to_document(key) for key in keys.values()]}, indent=1, ensure_ascii=False)
                self._replace(text.encode() + b"\n")
        except OSError as error:
            raise OperatorError(f"{self._path}: cannot be written: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_name(self._path.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, data: bytes) -> None:
        target = self._path.resolve()
        temporary = target.with_name(target.name + ".new")
        with suppress(FileNotFoundError):
            temporary.unlink()  # Of a writer that was killed; its mode may be another.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
