"""Consumes product events: those of a product one after the other, others beside them. I/O through its parts.

An event is acked when its change is durable in a shard, or it becomes a dead letter with its reason. A crash in between
delivers it again, and the newest revision of a product wins, so it is applied once. One whose photo will not be had is
applied without it, and is a dead letter besides, for the photo.

Events that wait for another attempt hold up later events of their product, and no others: they count in `max_held` and
not in `max_active`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from lookalike.errors import LookalikeError, Unavailable, public_message
from lookalike.runtime.call import answering
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.tracing import Kind
from lookalike.stream.event import call_of, product_id_of
from lookalike.stream.product_stream import Consumer, Handle, Record
from lookalike.timestamps import unix_time_s
from lookalike.v1.event_pb2 import ProductEvent
from pipeline.worker import metrics
from pipeline.worker.event_handler import Outcome
from pipeline.worker.failures import POLICIES, PhotoUnusable, Poison, Retry, RetryCause, RetryPolicy

log = logging.getLogger(__name__)

_POLL_RECORDS: Final = 512
_POLL_BYTES: Final = 8 << 20
_POLL_S: Final = 1.0
_ACKS_IN_FLIGHT: Final = 1  # Acks that come during one go together in the next.
_MAX_ACKS: Final = 1000
_TELL_S: Final = 10.0
_REASON_CHARS: Final = 500


class HandleEvent(Protocol):
    """As `EventHandler`."""

    async def __call__(self, event: ProductEvent, *, with_photo: bool = True) -> Outcome: ...


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Bounds of a worker: beyond them it polls no further."""

    max_active: int = 256  # Events that are fetched, encoded or written at a time.
    max_held: int = 20_000  # Events in memory: active ones, those behind one of the same product, those to try again.
    max_held_bytes: int = 256 << 20
    drain_s: float = 5.0  # For events that are active when it is told to stop.
    policies: Mapping[RetryCause, RetryPolicy] = field(default_factory=lambda: POLICIES)


class Worker:
    """A worker on one consumer; for use on one event loop."""

    def __init__(
        self,
        consumer: Consumer,
        handle: HandleEvent,
        options: WorkerOptions,
        *,
        random: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_s: Callable[[], float] = unix_time_s,
    ) -> None:
        self._consumer = consumer
        self._handle = handle
        self._options = options
        self._random = random
        self._sleep = sleep
        self._now_s = now_s
        self._active = asyncio.Semaphore(options.max_active)
        self._tasks: dict[asyncio.Task[None], Record] = {}
        self._last: dict[str, asyncio.Task[None]] = {}  # Of each product with an event in hand.
        self._busy: set[Handle] = set()  # Records that are being handled, or said to be done with.
        self._untold: Counter[RetryCause] = Counter()
        self._tell_at_s: dict[RetryCause, float] = {}
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._acks: Coalescer[Record, bool] = Coalescer(
            self._ack_batch, max_in_flight=_ACKS_IN_FLIGHT, max_batch=_MAX_ACKS, max_waiting=1 << 62, name="ack events"
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then finish what is active within `drain_s`. Leaves the group in the end."""
        async with self._consumer:
            try:
                while not stopping.is_set():
                    if not self._has_room():
                        self._room.clear()
                        await _first(self._room.wait(), stopping.wait())
                        continue
                    await self._poll()
                await self._drain()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def held(self) -> int:
        """Events in memory."""
        return len(self._tasks)

    def _has_room(self) -> bool:
        return self.held < self._options.max_held and self._held_bytes < self._options.max_held_bytes

    async def _poll(self) -> None:
        records = min(_POLL_RECORDS, self._options.max_held - self.held)
        try:
            batch = await self._consumer.poll(max_records=records, max_bytes=_POLL_BYTES, wait_s=_POLL_S)
        except Unavailable as error:
            log.warning("the stream cannot be read: %s", error)
            await self._sleep(_POLL_S)
            return
        metrics.PARTITIONS.set(len(self._consumer.partitions))
        for partition in batch.lost:
            self._drop(partition)
        for record in batch.records:
            self._start(record)

    def _start(self, record: Record) -> None:
        product_id = product_id_of(record.event.change)
        task = asyncio.create_task(self._work(record, self._last.get(product_id)))
        self._last[product_id] = task
        self._tasks[task] = record
        self._held_bytes += record.size_bytes
        metrics.HELD.set(self.held)

        def forget(done: asyncio.Task[None]) -> None:
            del self._tasks[done]
            self._busy.discard(record.handle)
            self._held_bytes -= record.size_bytes
            if self._last.get(product_id) is done:
                del self._last[product_id]
            metrics.HELD.set(self.held)
            self._room.set()

        task.add_done_callback(forget)

    def _drop(self, partition: int) -> None:
        """Another worker has the records of a partition now. A change that is being written may still be made."""
        for task, record in self._tasks.items():
            if record.handle.partition == partition:
                task.cancel()

    async def _work(self, record: Record, before: asyncio.Task[None] | None) -> None:
        """Handle a record after the one before it of the same product, until it is acked, parked or lost."""
        if before is not None:
            await asyncio.wait((before,))
        attempts: Counter[RetryCause] = Counter()
        without_photo = ""  # Why it is made without its photo.
        while self._consumer.holds(record):
            try:
                outcome = await self._try(record, with_photo=not without_photo)
            except PhotoUnusable as error:
                without_photo = str(error)
            except Poison as error:
                return await self._park(record, str(error), attempts.total() + 1)
            except Retry as error:
                attempts[error.cause] += 1
                metrics.RETRIES.labels(cause=error.cause).inc()
                if not self._is_spent(error.cause, attempts):
                    await self._pause(record, error, attempts[error.cause])
                elif error.cause is RetryCause.PHOTO:
                    without_photo = str(error)
                else:
                    return await self._park(record, str(error), attempts.total())
            else:
                if not without_photo:
                    return await self._ack(record, outcome)
                reason = f"{without_photo}; the change was made without the photo"
                return await self._park(record, reason, attempts.total() + 1)
        metrics.EVENTS.labels(outcome="lost").inc()

    async def _try(self, record: Record, *, with_photo: bool) -> Outcome:
        """Handle a record once. Raises PhotoUnusable, Retry and Poison."""
        async with self._active:
            self._busy.add(record.handle)
            try:
                with answering(call_of(record.event), None, Kind.CONSUMER):
                    return await self._handle(record.event, with_photo=with_photo)
            except (PhotoUnusable, Retry, Poison):
                raise
            except LookalikeError as error:
                raise Poison(public_message(error)) from error
            except Exception as error:
                log.exception("an event of product %s failed", product_id_of(record.event.change))
                raise Retry(RetryCause.BUG, f"{type(error).__name__}, see the worker's log") from error

    def _is_spent(self, cause: RetryCause, attempts: Mapping[RetryCause, int]) -> bool:
        limit = self._options.policies[cause].attempts
        return limit is not None and attempts[cause] >= limit

    async def _pause(self, record: Record, error: Retry, attempt: int) -> None:
        pause_s = self._options.policies[error.cause].pause_s(attempt, self._random, retry_after_s=error.retry_after_s)
        self._busy.discard(record.handle)
        self._tell(error)
        log.debug("product %s: attempt %d: %s", product_id_of(record.event.change), attempt, error)
        await self._sleep(pause_s)

    def _tell(self, error: Retry) -> None:
        """Say now and then what events wait for: during an outage thousands wait for the same."""
        self._untold[error.cause] += 1
        if self._now_s() >= self._tell_at_s.get(error.cause, 0.0):
            log.warning("%d attempts failed, the last: %s", self._untold.pop(error.cause), error)
            self._tell_at_s[error.cause] = self._now_s() + _TELL_S

    async def _ack(self, record: Record, outcome: Outcome) -> None:
        while self._consumer.holds(record):
            try:
                if not await self._acks.submit(record):
                    break
            except Unavailable as error:
                log.warning("an event could not be acked: %s", error)
                await self._sleep(_POLL_S)
                continue
            metrics.EVENTS.labels(outcome=outcome).inc()
            metrics.FRESHNESS.observe(max(self._now_s() - record.event.published_at_us / 1e6, 0.0))
            return
        metrics.EVENTS.labels(outcome="lost").inc()

    async def _ack_batch(self, records: list[Record]) -> list[bool]:
        lost = {record.handle for record in await self._consumer.ack(records)}
        return [record.handle not in lost for record in records]

    async def _park(self, record: Record, reason: str, attempts: int) -> None:
        log.warning("product %s: given up after %d attempts: %s", product_id_of(record.event.change), attempts, reason)
        while self._consumer.holds(record):
            try:
                if await self._consumer.park(record, reason=reason[:_REASON_CHARS], attempts=attempts):
                    metrics.EVENTS.labels(outcome="dead").inc()
                    return
                break
            except Unavailable as error:
                log.warning("an event could not be parked: %s", error)
                await self._sleep(_POLL_S)
        metrics.EVENTS.labels(outcome="lost").inc()

    async def _drain(self) -> None:
        """Let what is being handled end. What waits for another attempt, or for another event, is delivered again."""
        for task, record in self._tasks.items():
            if record.handle not in self._busy:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._options.drain_s)


async def _first(*waits: Awaitable[object]) -> None:
    """Wait until the first of them is done, and cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
