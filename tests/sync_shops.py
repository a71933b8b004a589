"""A shop in an SQLite file, and a sync of a database to a stream that remembers what it was given."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lookalike.stream import event as events
from lookalike.stream.memory_stream import MemoryStream
from lookalike.stream.product_stream import ProductStream
from lookalike.v1.catalog_pb2 import Change
from pipeline.catalogue_report import CatalogueReport
from pipeline.column_mapping import ColumnMapping, parse_mapping
from pipeline.sync.database import Database
from pipeline.sync.passes import PassResult, Syncer
from pipeline.sync.settings import SyncSettings
from pipeline.sync.source import Source
from pipeline.sync.state import SyncState

NOW_S = 1_764_000_000.0  # 2025-11-24T16:00:00Z

PLAIN = parse_mapping([])


class Shop:
    """A table `products` with the columns id, title, category, price, deleted and updated_at."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "shop.db"
        self.run("CREATE TABLE products (id, title, category, price, deleted, updated_at)")

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    def run(self, statement: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self.file)) as db, db:
            db.execute(statement, values)

    def put(
        self, id: object, updated_at: object, *, title: object = "mug", price: object = 5, deleted: object = None
    ) -> None:
        self.run("DELETE FROM products WHERE id IS ?", id)
        self.add(id, updated_at, title=title, price=price, deleted=deleted)

    def add(
        self, id: object, updated_at: object, *, title: object = "mug", price: object = 5, deleted: object = None
    ) -> None:
        self.run("INSERT INTO products VALUES (?, ?, 'home', ?, ?, ?)", id, title, price, deleted, updated_at)

    def fill(self, count: int, updated_at: object) -> None:
        """Add the products p1, p2, …"""
        statement = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO products SELECT 'p' || i, 'mug', 'home', 5, NULL, ? FROM n"
        )
        self.run(statement, count, updated_at)


def settings(**changed: Any) -> SyncSettings:
    mapping: ColumnMapping = changed.pop("mapping", PLAIN)
    given = {name: changed.pop(name) for name in ("table", "query", "cursor", "first") if name in changed}
    defaults = {"cursor": "updated_at"} if "query" in given else {"cursor": "updated_at", "table": "products"}
    source = Source(**(defaults | given))
    return SyncSettings(source=source, mapping=mapping, **changed)


class RecordingStream(MemoryStream):
    """Remembers what was appended, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(4, **options)
        self.changes: list[Change] = []
        self.batches: list[int] = []

    async def append(self, events_: Sequence[Any]) -> Any:
        handles = await super().append(events_)
        self.changes += [each.change for each in events_]
        self.batches.append(len(events_))
        return handles

    def newest(self) -> list[tuple[str, str]]:
        """What was appended since the last call: "put" or "remove", and the product."""
        taken = [
            ("remove" if each.WhichOneof("change") == "remove" else "put", events.product_id_of(each))
            for each in self.changes
        ]
        self.changes = []
        return taken


class Sync:
    """Passes with one state file; each opens it anew, as a command does."""

    def __init__(self, url: str, directory: Path, stream: ProductStream, **options: Any) -> None:
        self.state = directory / "shop.sync"
        self.now_s = NOW_S
        self.stopping = asyncio.Event()
        self.stream = stream
        self.url = url
        self._options = options

    async def run(
        self, *, full: bool = False, restart: bool = False, report: CatalogueReport | None = None, **changed: Any
    ) -> PassResult:
        with self.opened(restart=restart, **changed) as syncer:
            return await syncer.run(report or CatalogueReport(), full=full)

    @contextlib.contextmanager
    def opened(self, *, restart: bool = False, dry_run: bool = False, **changed: Any) -> Iterator[Syncer]:
        chosen = settings(**{**self._options, **changed})
        database = Database(self.url, chosen.source)
        with (
            SyncState(self.state, source=str(chosen.source), restart=restart, dry_run=dry_run) as state,
            ThreadPoolExecutor(1) as executor,
        ):
            yield Syncer(
                chosen,
                database,
                state,
                self.stream,
                executor=executor,
                unix_time_s=lambda: self.now_s,
                stopping=self.stopping,
            )
