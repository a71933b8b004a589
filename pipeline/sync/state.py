"""What a sync remembers: how far it has read, and what it last published of each product. An SQLite file.

What is remembered is written in one transaction, synced to disk, after the events it speaks of are durable in the
stream. So a crash repeats events, and loses none. The file is locked while it is open. About 60 bytes a product; memory
is bounded by SQLite's page cache.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from lookalike.errors import OperatorError
from pipeline.sync import cursor as cursors
from pipeline.sync.cursor import Cursor

_SCHEMA: Final = 1
_CACHE_KIB: Final = 65_536
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS products (
    id TEXT PRIMARY KEY, run INTEGER NOT NULL, revision TEXT NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
"""
_SAVE: Final = """
INSERT INTO products VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET run = excluded.run, revision = excluded.revision, digest = excluded.digest
"""
# In place of the digest of what was published.
REMOVED: Final = b""  # The product was removed.
UNSURE: Final = b"?"  # It was published, and is to be published again, since the sync began anew.
UNSURE_REMOVED: Final = b"-"  # It was removed, and is to be removed again.
_RESTART: Final = (REMOVED, UNSURE_REMOVED, UNSURE_REMOVED, UNSURE)


class Known(NamedTuple):
    """What is known of a product that was published."""

    run: int  # The pass that saw it last; negative: that saw only a bad row of it.
    revision: int  # Of the event that was published last; text in the file, since SQLite's integers have 63 bits.
    digest: bytes  # Of what was published last, or REMOVED, UNSURE, UNSURE_REMOVED.

    @property
    def is_live(self) -> bool:
        """Whether it was published, and not removed since."""
        return self.digest not in (REMOVED, UNSURE_REMOVED)


class SyncState:
    """The state in a file. For use by one thread, as a context manager.

    path:    None: in a temporary file, which is gone afterwards.
    source:  what is read, in words; a state of another source is refused.
    restart: begin anew: read and publish all again. Revisions are kept, so that what is published again is newer.
    dry_run: leave the file as it is.
    """

    def __init__(self, path: Path | None, *, source: str, restart: bool = False, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._path = path = None if dry_run and path and not path.exists() else path
        try:
            self._open(path, source, restart)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise OperatorError(f"{path}: another sync is running with this state") from None
            raise OperatorError(f"{path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise OperatorError(f"{path}: not the state of a sync, or damaged ({error})") from None

    def _open(self, path: Path | None, source: str, restart: bool) -> None:
        self._db = sqlite3.connect(path or "", timeout=0, isolation_level=None)
        try:
            for pragma in ("locking_mode=EXCLUSIVE", "synchronous=FULL", f"cache_size=-{_CACHE_KIB}"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("BEGIN EXCLUSIVE")  # Locked until it is closed.
            for statement in filter(str.strip, _TABLES.split(";")):
                self._db.execute(statement)
            if restart:
                self._db.execute("DELETE FROM meta WHERE name <> 'run'")
                self._db.execute("UPDATE products SET digest = CASE WHEN digest IN (?, ?) THEN ? ELSE ? END", _RESTART)
            self._check(path, source)
            position = self._meta("position")
            self.position: Cursor | None = cursors.loads(position) if position else None
            self.stream_id = self._meta("stream")  # Of the stream that has the events; empty: none has any yet.
            self.run = int(self._meta("run") or 0)
            self._end_transaction("COMMIT")
        except (ValueError, LookupError, TypeError) as error:
            self._db.close()
            raise OperatorError(f"{path}: not the state of a sync, or damaged ({error})") from None
        except BaseException:
            self._db.close()
            raise

    def _check(self, path: Path | None, source: str) -> None:
        if (schema := self._meta("schema")) and schema != str(_SCHEMA):
            raise OperatorError(f"{path}: the state of another version of Lookalike (schema {schema})")
        if (other := self._meta("source")) and other != source:
            raise OperatorError(
                f"{path}: the state of another source, {other}, and not of {source}: give another --state, or --restart"
            )
        self._set_meta("schema", str(_SCHEMA))
        self._set_meta("source", source)

    def begin_run(self) -> int:
        """Begin a pass over the result; products that it sees get its number."""
        self.run += 1
        return self.run

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of these products, at most 10,000."""
        marks = ",".join("?" * len(ids))
        rows = self._db.execute(f"SELECT id, run, revision, digest FROM products WHERE id IN ({marks})", ids)  # noqa: S608  # marks
        return {id: Known(run, int(revision), digest) for id, run, revision, digest in rows}

    def remember(self, products: Iterable[tuple[str, Known]]) -> None:
        """Remember what is about to be published, until `commit` makes it durable, or `rollback` forgets it."""
        with self._write_errors():
            self._db.executemany(_SAVE, [(id, run, str(revision), digest) for id, (run, revision, digest) in products])

    def commit(self, position: Cursor | None = None, stream_id: str = "") -> None:
        """Make what is remembered durable, with the position; None, or an empty id: as they are."""
        with self._write_errors():
            self._set_meta("run", str(self.run))
            if position is not None:
                self._set_meta("position", cursors.dumps(position))
            if stream_id:
                self._set_meta("stream", stream_id)
            self._end_transaction("COMMIT")
        self.position = self.position if position is None else position
        self.stream_id = stream_id or self.stream_id

    def rollback(self) -> None:
        """Forget what was remembered since the last commit."""
        with self._write_errors():
            self._end_transaction("ROLLBACK")

    def published(self) -> int:
        """How many products were published and not removed since."""
        return self._count("digest NOT IN (?, ?)", REMOVED, UNSURE_REMOVED)

    def vanished(self) -> int:
        """How many of them the current pass did not see."""
        return self._count("digest NOT IN (?, ?) AND abs(run) <> ?", REMOVED, UNSURE_REMOVED, self.run)

    def vanished_ids(self, batch: int) -> Iterator[list[str]]:
        """Their ids in batches, and those that are to be removed again."""
        query = "SELECT id FROM products WHERE id > ? AND digest <> ? AND abs(run) <> ? ORDER BY id LIMIT ?"
        last = ""
        while ids := [id for (id,) in self._db.execute(query, (last, REMOVED, self.run, batch))]:
            yield ids
            last = ids[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(sqlite3.Error):  # A failed COMMIT may have ended the transaction.
            self._db.execute("ROLLBACK")
        self._db.close()

    def _end_transaction(self, how: str) -> None:
        if not self._dry_run:
            self._db.execute(how)
            self._db.execute("BEGIN")

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:  # Such as a disk that is full.
            raise OperatorError(f"{self._path or 'a temporary file'}: cannot be written: {error}") from None

    def _count(self, condition: str, *values: object) -> int:
        (count,) = self._db.execute(f"SELECT count(*) FROM products WHERE {condition}", values).fetchone()  # noqa: S608
        return int(count)

    def _meta(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _set_meta(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
