"""What a watched catalogue was like when its products were last published, in an SQLite file. File I/O.

A row for each product with the digest of what was published, and one for each photo with the digest of its bytes: after
a restart only what has changed is published.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Self

from lookalike.errors import BadArtifact

_SCHEMA = """
CREATE TABLE IF NOT EXISTS products (id TEXT PRIMARY KEY, digest BLOB NOT NULL, pass INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (path TEXT PRIMARY KEY, modified INTEGER, size INTEGER, inode INTEGER, digest BLOB)
    WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_VERSION = 1


class FileState(NamedTuple):
    """What changes whenever a file does, as far as its directory tells."""

    modified_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """None: there is no such file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_mtime_ns, found.st_size, found.st_ino)


class WatchState:
    """For use in `with`. What is put is kept when `commit` returns. Raises BadArtifact for a damaged file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path)
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                known = f"its format is {version}, and {_VERSION} is known"
                raise BadArtifact(f"{path}: {known}: remove it to publish all anew")
            self._database.executescript(_SCHEMA)
            (self._pass,) = self._database.execute("SELECT COALESCE(MAX(pass), 0) FROM products").fetchone()
        except sqlite3.Error as error:
            raise BadArtifact(f"{path}: {error}: remove it to publish all anew") from error

    def begin_pass(self) -> None:
        """Products that are neither kept nor put from now on are missing."""
        self._pass += 1

    def is_published(self, product_id: str, digest: bytes) -> bool:
        """Whether the product was published as it is; it is not missing then."""
        updated = self._database.execute(
            "UPDATE products SET pass = ? WHERE id = ? AND digest = ?", (self._pass, product_id, digest)
        )
        return updated.rowcount == 1

    def keep(self, product_id: str) -> None:
        """The product is not missing, though it is not known what it is like."""
        self._database.execute("UPDATE products SET pass = ? WHERE id = ?", (self._pass, product_id))

    def put(self, published: Sequence[tuple[str, bytes]]) -> None:
        rows = [(product_id, digest, self._pass) for product_id, digest in published]
        self._database.executemany("INSERT OR REPLACE INTO products VALUES (?, ?, ?)", rows)

    def count(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM products").fetchone()
        return int(count)

    def count_missing(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM products WHERE pass < ?", (self._pass,)).fetchone()
        return int(count)

    def missing(self) -> Iterator[str]:
        with closing(self._database.execute("SELECT id FROM products WHERE pass < ?", (self._pass,))) as rows:
            for (product_id,) in rows:
                yield product_id

    def forget_missing(self) -> None:
        self._database.execute("DELETE FROM products WHERE pass < ?", (self._pass,))

    def photo_digest(self, path: str, state: FileState) -> bytes | None:
        """The digest of the photo, if it is as it was."""
        found = self._database.execute(
            "SELECT digest FROM photos WHERE path = ? AND modified = ? AND size = ? AND inode = ?", (path, *state)
        ).fetchone()
        return found[0] if found else None

    def put_photo(self, path: str, state: FileState, digest: bytes) -> None:
        self._database.execute("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?)", (path, *state, digest))

    def commit(self) -> None:
        try:
            self._database.commit()
        except sqlite3.Error as error:
            raise BadArtifact(f"{self._path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
