"""The durable stream of product events as its users see it: publish, consume, wait, dead letters. Protocols; no I/O.

A stream has a fixed number of partitions. The events of a product are in one partition, in the order in which they were
appended. A partition is read by one consumer of a group at a time, under a lease that is renewed beside the work.

    async with stream.consumer("workers", "worker-1") as consumer:
        while not stopping:
            batch = await consumer.poll(max_records=256, max_bytes=8 << 20, wait_s=1.0)
            for partition in batch.lost:
                ...  # Drop what is under way for it: another consumer has its records now.
            for record in batch.records:
                ...  # Records of one product one after the other; others beside them.

and of each record, once

    if consumer.holds(record):            # Free of I/O: ask just before the change is applied.
        ...apply record.event.change...   # Idempotent: the newest revision wins.
        await consumer.ack([record])      # Or: await consumer.park(record, reason="404", attempts=5)

Delivery is at least once: what was not acked is delivered again to whoever holds the partition next, before anything
newer of that partition. A record stays with the consumer until it is acked or parked: a worker retries by itself, and
bounds what it has under way by polling no further. All calls raise Unavailable while the stream cannot be reached, and
may be repeated. `trim` is for a worker to call, every minute or so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from lookalike.errors import InvalidRequest
from lookalike.v1.event_pb2 import ProductEvent


@dataclass(frozen=True, slots=True)
class Handle:
    """Where an event is in a stream."""

    stream: str  # The stream's identity: a stream that was emptied and made anew has another.
    partition: int
    entry: str  # Of the partition; rises with every event.

    def __str__(self) -> str:
        return f"{self.stream}.{self.partition}.{self.entry}"

    @classmethod
    def parse(cls, text: str) -> Handle:
        """Raises InvalidRequest for a text that no handle has."""
        stream, _, rest = text.partition(".")
        partition, _, entry = rest.partition(".")
        if not (stream and entry and partition.isascii() and partition.isdigit() and len(partition) < 6):
            raise InvalidRequest("handle", f"{text[:64]!r} is not one that the stream gave")
        return cls(stream, int(partition), entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An event as a consumer has it."""

    handle: Handle
    event: ProductEvent
    size_bytes: int
    deliveries: int  # 1: the first time. More: a consumer before this one crashed, or lost the partition.
    appended_at_s: float  # Seconds since 1970 by the stream's clock.
    lease: str  # Under which it was delivered.


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a poll found, and which partitions came and went since the one before."""

    records: Sequence[Record] = ()
    gained: Sequence[int] = ()
    lost: Sequence[int] = ()  # Their records are not this consumer's any more, acked or not.


class Consumer(Protocol):
    """One member of a group. For use on one event loop, as an asynchronous context manager."""

    @property
    def member(self) -> str:
        """Its name in the group: the given one, and a suffix of its own. Two workers with one name are two members."""

    @property
    def partitions(self) -> Collection[int]:
        """The partitions that it holds now."""

    async def poll(self, *, max_records: int, max_bytes: int, wait_s: float) -> Batch:
        """The next records, at least one if there is any, and beyond it no more than the bounds allow.

        Returns after `wait_s` if there are none, and before it if partitions were gained or lost. Events that cannot be
        read are parked and not returned.
        """

    def holds(self, record: Record) -> bool:
        """Whether the record is still this consumer's: its lease has not run out or been lost. No I/O."""

    async def ack(self, records: Sequence[Record]) -> Sequence[Record]:
        """Say that the records are done with. Returns those that are not this consumer's any more, and not acked."""

    async def park(self, record: Record, *, reason: str, attempts: int) -> bool:
        """Make the record a dead letter, and ack it, in one step. False: it is not this consumer's any more."""

    async def __aenter__(self) -> Self:
        """Join the group."""

    async def __aexit__(self, *_: object) -> None:
        """Leave the group: its partitions are free at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that a worker gave up on."""

    id: str  # Rises with the time at which it was parked.
    handle: Handle
    event: ProductEvent | None  # None: its bytes are no event.
    reason: str
    attempts: int
    group: str
    appended_at_s: float  # Seconds since 1970 by the stream's clock.
    parked_at_s: float


class EventState(Enum):
    """What became of an event, as far as a group goes."""

    PENDING = "pending"  # Not yet acked.
    DONE = "done"  # Acked: its change was applied, or a newer one had been.
    DEAD = "dead"  # A dead letter, or one that was dropped.
    UNKNOWN = "unknown"  # This stream never had it: it was emptied since, or the handle is another stream's.


@dataclass(frozen=True, slots=True)
class EventStatus:
    """The state of an event, and why it is dead."""

    state: EventState
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """Figures of a stream for one group, as metrics show them."""

    events: int  # That the stream keeps, done ones included.
    max_events: int  # Beyond it, dead letters counted too, appends are refused.
    lag: int  # Events that are not acked.
    oldest_s: float  # The age of the oldest of them by the stream's clock; 0: there is none.
    dead_letters: int


class ProductStream(Protocol):
    """A stream of product events with at least the durability that its implementation states."""

    @property
    def partitions(self) -> int:
        """How many partitions it has, fixed when it was created."""

    async def append(self, events: Sequence[ProductEvent]) -> Sequence[Handle]:
        """Append events, all or none; durable when it returns. Returns their handles, in order.

        Raises Overloaded where the stream is full, and Unavailable; after the latter the events may be there, and
        appending them again is harmless: a revision is applied once.
        """

    def consumer(self, group: str, name: str) -> Consumer:
        """A new member of a group. A new group reads from the oldest event that the stream keeps."""

    async def statuses(self, group: str, handles: Sequence[Handle]) -> Sequence[EventStatus]:
        """What became of each event. One that was replayed has the state of its new event."""

    async def status(self, group: str) -> StreamStatus:
        """Figures for metrics."""

    async def trim(self, *, older_than_s: float) -> int:
        """Remove events that are older, and that every group has acked. Returns how many."""

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters by rising id, those with a greater id than `after`."""

    async def dead_letter(self, id: str) -> DeadLetter:
        """Raises NotFound."""

    async def replay(self, id: str) -> Handle:
        """Append the event of a dead letter again, with its revision, and remove the dead letter, in one step.

        Raises NotFound, and InvalidRequest where its bytes are no event.
        """

    async def drop(self, id: str) -> None:
        """Remove a dead letter. Raises NotFound."""

    async def close(self) -> None:
        """Close its connections."""
