"""One pass over the result of a query, published as product events. I/O through the database, the state and the stream.

Events are appended in batches; after a batch is durable in the stream, what it published and the cursor of its last row
are committed to the state. What is lost in between is read and published again, which is harmless: revisions.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from lookalike.changes import remove_change, upsert_change
from lookalike.errors import BadCatalogue, BadSettings, OperatorError, Overloaded
from lookalike.product_rules import BadField, CatalogueProduct, RejectReason
from lookalike.stream.event import new_event
from lookalike.stream.product_stream import ProductStream
from lookalike.v1.catalog_pb2 import Change
from pipeline.catalogue_report import CatalogueReport
from pipeline.change_rows import product_message
from pipeline.sync import cursor as cursors
from pipeline.sync.cursor import Cursor
from pipeline.sync.database import Database
from pipeline.sync.rows import RowReader, SyncedRow, cursor_revision, revision_at
from pipeline.sync.settings import MAX_BATCH_BYTES, SyncSettings
from pipeline.sync.state import REMOVED, UNSURE, Known, SyncState

log = logging.getLogger(__name__)

_MAX_REMEMBERED: Final = 5_000  # Rows without an event, after which the position is committed all the same.
_SURE_ROWS: Final = 1_000  # Of fewer a percentage says little, unless they are all.
_INTERRUPT_S: Final = 5.0  # A database that does not end a query by then is left alone.

Result = TypeVar("Result")


class Stopped(Exception):
    """The sync was asked to stop. What is durable is committed."""


@dataclass(slots=True, kw_only=True)
class PassResult:
    """What one pass did."""

    report: CatalogueReport
    upserts: int = 0
    removals: int = 0
    unchanged: int = 0  # Rows that are as they were published before.
    stale: int = 0  # Of `upserts`: changed, though the column of revisions has not risen. They will not be applied.
    position: Cursor | None = None
    full: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            **self.report.as_json(),
            "upserts": self.upserts,
            "removals": self.removals,
            "unchanged": self.unchanged,
            "stale": self.stale,
            "position": None if self.position is None else cursors.describe(self.position),
            "full": self.full,
        }

    def __str__(self) -> str:
        lines = [f"{self.upserts:,} products and {self.removals:,} removals published, {self.unchanged:,} unchanged"]
        if self.stale:
            lines.append(f"  changed without a greater revision, so not applied: {self.stale:,}")
        if self.position is not None:
            lines.append(f"  position: {cursors.describe(self.position)}")
        return "\n".join(lines)


@dataclass(slots=True)
class _Batch:
    """Events, and what the state is to remember with them."""

    events: list[Any] = field(default_factory=list)
    size_bytes: int = 0
    remembered: int = 0
    position: Cursor | None = None


class Syncer:
    """Passes over one result, one after the other.

    stream:      None: nothing is published.
    executor:    of one thread, in which the database is read.
    unix_time_s: the clock, for revisions and the times of events.
    stopping:    set from outside, to end a pass after the batch in progress.
    """

    def __init__(
        self,
        settings: SyncSettings,
        database: Database,
        state: SyncState,
        stream: ProductStream | None,
        *,
        executor: Executor,
        unix_time_s: Callable[[], float],
        stopping: asyncio.Event,
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._state = state
        self._stream = stream
        self._executor = executor
        self._unix_time_s = unix_time_s
        self._stopping = stopping
        self._on_rows = on_rows
        self._told: set[tuple[str, str]] = set()  # Bad rows of the last pass, which the next may read again.
        self._telling: set[tuple[str, str]] = set()
        self._batch = _Batch()
        self._result = PassResult(report=CatalogueReport())
        self._stuck = False  # Whether the database's thread is in a call that does not end.

    async def run(self, report: CatalogueReport, *, full: bool) -> PassResult:
        """Read the result from the position on, or all of it, and publish what changed.

        Raises Stopped, Unavailable, OperatorError for what a person has to decide, and what the database raises.
        """
        result = self._result = PassResult(report=report, full=full, position=self._state.position)
        self._state.begin_run()
        self._batch, self._telling = _Batch(), set()
        began_s = self._unix_time_s()
        position = None if full else self._state.position
        try:
            reached, greatest = await self._read(position, full=full)
            self._check_rejected(whole=True)
            if position is not None and not reached:
                await self._check_not_back(position)
            if full:
                self._batch.position = greatest
            await self._flush()
            if full:
                await self._remove_vanished(began_s)
        except BaseException:
            self._state.rollback()
            raise
        self._told = self._telling
        result.position = self._state.position
        return result

    async def _read(self, position: Cursor | None, *, full: bool) -> tuple[bool, Cursor | None]:
        """Publish the rows. Whether one has the position's cursor or a greater one, and the greatest cursor of all."""
        start = None if position is None else cursors.before(position, self._settings.overlap)
        reached, greatest = False, None if position is None else position
        last: Cursor | None = None
        with self._chunks(start) as chunks:
            columns, parts = await self._in_thread(lambda: next(chunks)), chunks
            reader = RowReader(self._settings, columns, self._unix_time_s())
            while (part := await self._in_thread(lambda: next(parts, None))) is not None:
                rows = [reader.read(row) for row in part]
                known = self._state.known([row.id for row in rows if row.id])
                for row in rows:
                    if row.cursor is not None:
                        if last is not None and not full and cursors.is_greater(last, row.cursor):
                            raise BadSettings(
                                f"row {row.line} of the result: the cursor {cursors.describe(row.cursor)} comes after "
                                f"{cursors.describe(last)}: add ORDER BY {self._settings.source.cursor} to the query"
                            )
                        last = row.cursor
                        reached |= position is not None and not cursors.is_greater(position, row.cursor)
                        if greatest is None or cursors.is_greater(row.cursor, greatest):
                            greatest = row.cursor
                    self._handle(reader, row, known, full=full)
                    if not full:
                        self._batch.position = greatest
                    if self._is_full(self._batch):
                        await self._flush()
                self._check_rejected(whole=False)
                self._on_rows(len(rows))
                if self._stopping.is_set():
                    await self._flush()
                    raise Stopped
        self._result.report.notice_assumptions(reader.notes)
        return reached, greatest

    def _handle(self, reader: RowReader, row: SyncedRow, known: dict[str, Known], *, full: bool) -> None:
        """Count a row, and add what it changes to the batch."""
        report, run = self._result.report, self._state.run
        report.rows += 1
        before = known.get(row.id)
        bad = row.bad
        if bad is None and before is not None and before.run == run and before.is_live:
            bad = BadField("id", RejectReason.DUPLICATE_ID, "an earlier row of the result has the same id")
        elif bad is not None and before is not None and before.run != run:
            self._remember(row.id, before._replace(run=-run), known)  # It is still there.
        if bad is not None:
            self._reject(reader, row, bad)
        elif row.product is not None:
            self._upsert(reader, row, row.product, before, known)
        else:
            report.filtered += 1
            # At the end of a full pass, what it has not seen is removed: another row may still have the id.
            if not full and self._may_be_live(row, before):
                self._remove(row.id, self._revision(row, before), known)

    @staticmethod
    def _may_be_live(row: SyncedRow, before: Known | None) -> bool:
        """Whether the product of a row that is deleted or left out may be among those that are searched."""
        if before is None:  # An index may have been built from all rows that are not left out.
            return not row.left_out
        return before.digest != REMOVED

    def _upsert(
        self,
        reader: RowReader,
        row: SyncedRow,
        product: CatalogueProduct,
        before: Known | None,
        known: dict[str, Known],
    ) -> None:
        report = self._result.report
        if row.unused_photo is not None:
            report.note_unused_photo(row.unused_photo)
        for notice in row.notices:
            report.notice(f"{reader.file}:{row.line}: {notice}")
        report.count_product(product, has_photo=bool(product.image), file=reader.file, line=row.line)
        message = product_message(product)
        digest = hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=8).digest()
        if before is not None and before.digest == digest:
            self._result.unchanged += 1
            self._remember(row.id, before._replace(run=self._state.run), known)
            return
        revision = self._revision(row, before)
        self._result.upserts += 1
        self._result.stale += before is not None and before.digest != UNSURE and revision <= before.revision
        self._add(upsert_change(message, revision=revision, encode=True, allow_unfindable=True))
        self._remember(row.id, Known(self._state.run, revision, digest), known)

    def _remove(self, product_id: str, revision: int, known: dict[str, Known]) -> None:
        self._result.removals += 1
        self._add(remove_change(product_id, revision=revision))
        self._remember(product_id, Known(self._state.run, revision, REMOVED), known)

    def _revision(self, row: SyncedRow, before: Known | None) -> int:
        """Of the event of a row that is not as it was published last."""
        if row.revision:
            return row.revision
        unit = self._settings.revision_unit
        own = cursor_revision(row.cursor, self._settings) or revision_at(int(self._unix_time_s() * 1e6), unit)
        # Two changes within the resolution of the cursor have one time: the later one is newer.
        return max(own, before.revision + 1 if before is not None else 1)

    def _add(self, change: Change) -> None:
        name = self._settings.source.table or "query"
        event = new_event(
            change,
            source=f"sync {name}",
            published_at_s=self._unix_time_s(),
            photo_root=self._settings.photo_root,
        )
        self._batch.events.append(event)
        self._batch.size_bytes += event.ByteSize()

    def _remember(self, product_id: str, what: Known, known: dict[str, Known]) -> None:
        known[product_id] = what
        self._state.remember([(product_id, what)])
        self._batch.remembered += 1

    def _reject(self, reader: RowReader, row: SyncedRow, bad: BadField) -> None:
        """Report a bad row, unless the last pass has."""
        rejected = reader.rejected(row, bad)
        self._telling.add(what := (row.id, str(bad)))
        if row.id and what in self._told:
            self._result.unchanged += 1
            return
        self._result.report.reject(rejected)

    async def _remove_vanished(self, began_s: float) -> None:
        """Remove what was published before and is not in the result any more. Raises OperatorError for too much."""
        published, vanished = self._state.published(), self._state.vanished()
        if vanished and not self._settings.max_removed.allows(vanished, published):
            raise OperatorError(
                f"{vanished:,} of {published:,} products are not in the result any more, more than --max-removed "
                f"{self._settings.max_removed}: none of them is removed"
            )
        at_start = revision_at(int(began_s * 1e6), self._settings.revision_unit)
        for ids in self._state.vanished_ids(self._settings.batch):
            known = self._state.known(ids)
            for product_id in ids:
                before = known[product_id]
                self._remove(product_id, max(at_start, before.revision + 1), known)
            await self._flush()
            if self._stopping.is_set():
                raise Stopped

    async def _check_not_back(self, position: Cursor) -> None:
        value = await self._in_thread(self._database.greatest_cursor)
        at = cursors.describe(position)
        if value is None:
            problem = f"the result has no rows, and the position is {at}"
        else:
            try:
                greatest = cursors.check_cursor(value)
            except ValueError as error:
                raise BadSettings(f"the greatest {self._settings.source.cursor} {error}") from None
            if not cursors.is_greater(position, greatest):
                return
            problem = (
                f"the greatest {self._settings.source.cursor} is {cursors.describe(greatest)}, before the position {at}"
            )
        raise OperatorError(
            f"the cursor went back: {problem}. The database was set back, or its newest rows were deleted: --full "
            "publishes what differs now"
        )

    def _check_rejected(self, *, whole: bool) -> None:
        report = self._result.report
        bound, rows = report.max_rejected, report.rows - report.filtered
        if bound is None or bound.allows(report.rejected, rows):
            return
        if whole or not bound.is_percentage or rows >= _SURE_ROWS:
            raise BadCatalogue(
                f"{report.rejected:,} of {rows:,} rows rejected, more than --max-rejected {bound}: stopped; what was "
                "published before stays"
            )

    def _is_full(self, batch: _Batch) -> bool:
        return (
            len(batch.events) >= self._settings.batch
            or batch.size_bytes >= MAX_BATCH_BYTES
            or batch.remembered >= _MAX_REMEMBERED
        )

    async def _flush(self) -> None:
        """Publish the batch; when it is durable, commit what the state remembers."""
        batch, self._batch = self._batch, _Batch()
        stream_id = ""
        if batch.events and self._stream is not None:
            stream_id = await self._append(self._stream, batch.events)
            if self._state.stream_id not in ("", stream_id):
                raise OperatorError(
                    f"the stream is another one ({stream_id}) than that which got the products before "
                    f"({self._state.stream_id}): it was emptied, or --stream names another. --restart publishes all "
                    "rows anew"
                )
        self._state.commit(batch.position, stream_id)

    async def _append(self, stream: ProductStream, events: Sequence[Any]) -> str:
        """Append events, waiting while the stream is full. Returns the stream's identity."""
        told = False
        while True:
            try:
                return (await stream.append(events))[0].stream
            except Overloaded as error:
                if not told:
                    log.warning("waiting: %s", error)
                told = True
                await self.pause(error.retry_after_s * random.uniform(1.0, 1.5))

    async def pause(self, seconds: float) -> None:
        """Raises Stopped if the sync is asked to stop meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopped

    @contextmanager
    def _chunks(self, start: Cursor | None) -> Iterator[Generator[Any, None, None]]:
        """The names of the columns, then chunks of rows; all calls go to the database's thread."""

        def read() -> Generator[Any, None, None]:
            with self._database.read(start) as (columns, parts):
                yield columns
                yield from parts

        chunks = read()
        try:
            yield chunks
        finally:
            if not self._stuck:
                self._executor.submit(chunks.close).result()

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        """Call in the database's thread. Raises Stopped if the sync is asked to stop meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # It may be left alone.
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((future, stop), return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
        finally:
            stop.cancel()
            if not future.done():  # Stopped, or cancelled.
                self._database.interrupt()
                await asyncio.wait((future,), timeout=_INTERRUPT_S)
                self._stuck = not future.done()
        raise Stopped
