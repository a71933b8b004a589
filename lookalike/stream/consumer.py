"""A member of a consumer group: its leases, what it was delivered, and what it acks. I/O through a PartitionLog.

Leases are renewed beside the work. A member whose renewals fail for so long that a lease runs out takes its partitions
as lost by its own clock, before anybody else can take them; and whatever it still sends is refused, since every step
names the lease. A partition that another member is due is given up when all of it that was delivered is acked, and at
the latest when as long as a lease has passed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from lookalike.errors import LookalikeError, ServiceError, Unavailable
from lookalike.stream import event as events
from lookalike.stream.partition_log import OLDEST, Cursor, Entry, PartitionLog
from lookalike.stream.product_stream import Batch, Handle, Record
from lookalike.stream.rebalance import plan

log = logging.getLogger(__name__)

_WAIT_S = 0.25  # At most so long is waited for new events without a look at what else has changed.


@dataclass(slots=True)
class _Tenure:
    """A partition that is held."""

    lease: str
    until_s: float  # By this process's clock, from before the call that renewed it.
    position: str  # The newest entry that was delivered to its group.
    cursor: str = OLDEST
    in_flight: set[str] = field(default_factory=set)
    given_up_at_s: float | None = None  # Since then nothing is read of it.


class LeasedConsumer:
    """A `Consumer` of a PartitionLog."""

    def __init__(
        self,
        partition_log: PartitionLog,
        group: str,
        name: str,
        *,
        lease_s: float,
        heartbeat_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = partition_log
        self._group = group
        self._member = f"{name}-{secrets.token_hex(4)}"
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._tenures: dict[int, _Tenure] = {}
        self._leases = 0
        self._gained: list[int] = []  # Since the last poll.
        self._lost: list[int] = []
        self._first = 0  # Of the partitions, that which is read first in the next poll.
        self._failures = 0  # Calls that failed.
        self._beat_now = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False
        self._heart: asyncio.Task[None] | None = None

    @property
    def member(self) -> str:
        return self._member

    @property
    def partitions(self) -> Collection[int]:
        return frozenset(self._held())

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat_until_closed())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._beat_now.set()
        if self._heart is not None:
            # Its calls are bounded; one that is cancelled loses its connection. What ended it, `poll` has raised.
            await asyncio.gather(self._heart, return_exceptions=True)
        tenures, self._tenures = self._tenures, {}
        with suppress(LookalikeError):  # Then the leases run out.
            await self._log.leave(self._group, self._member, {p: each.lease for p, each in tenures.items()})

    async def poll(self, *, max_records: int, max_bytes: int, wait_s: float) -> Batch:
        until_s, woken = self._clock() + wait_s, False
        while True:
            self._check_heart()
            try:
                records, delivered = await self._read(max(1, max_records), max(1, max_bytes))
            except Unavailable:
                records, delivered = (), False
                if not (self._gained or self._lost):
                    if self._clock() >= until_s:
                        raise
                    await self._pause(until_s)
                    continue
            left_s = until_s - self._clock()
            if records or self._gained or self._lost or left_s <= 0:
                gained, self._gained = self._gained, []
                lost, self._lost = self._lost, []
                return Batch(records=records, gained=gained, lost=lost)
            if delivered:  # Of which nothing was new: there may be more behind it.
                continue
            if woken:  # By an entry that another program has read in this group.
                self._read_again()
                await self._pause(until_s)
                woken = False
            elif positions := {partition: each.position for partition, each in self._readable().items()}:
                with suppress(Unavailable):  # The next read raises it.
                    woken = await self._log.wait(positions, min(left_s, _WAIT_S))
            else:
                await self._pause(until_s)

    def holds(self, record: Record) -> bool:
        tenure = self._tenures.get(record.handle.partition)
        return tenure is not None and tenure.lease == record.lease and self._clock() < tenure.until_s

    async def ack(self, records: Sequence[Record]) -> Sequence[Record]:
        held: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            if self.holds(record):
                held[record.handle.partition].append(record)
        leases = {partition: self._tenures[partition].lease for partition in held}
        entries = {
            partition: (leases[partition], [record.handle.entry for record in each]) for partition, each in held.items()
        }
        try:
            lost = await self._log.ack(self._group, entries) if entries else ()
        except Unavailable:
            self._read_again()
            raise
        for partition, (lease, ids) in entries.items():
            if partition in lost:
                self._lose(partition, lease)
            else:
                self._done_with(partition, lease, ids)
        return [each for each in records if each.handle.partition in lost or each.handle.partition not in held]

    async def park(self, record: Record, *, reason: str, attempts: int) -> bool:
        if not self.holds(record):
            return False
        return await self._park(record.handle.partition, record.lease, record.handle.entry, reason, attempts)

    async def _park(self, partition: int, lease: str, entry: str, reason: str, attempts: int) -> bool:
        parked = await self._log.park(self._group, partition, lease, entry, reason=reason, attempts=attempts)
        if parked:
            self._done_with(partition, lease, [entry])
        else:
            self._lose(partition, lease)
        return parked

    async def _read(self, max_records: int, max_bytes: int) -> tuple[Sequence[Record], bool]:
        """The next records, and whether anything was delivered."""
        if not (held := self._readable()):
            return (), False
        self._first += 1  # All partitions have their turn to be read first.
        order = [*held][self._first % len(held) :] + [*held][: self._first % len(held)]
        cursors = {partition: Cursor(held[partition].lease, held[partition].cursor) for partition in order}
        failures = self._failures
        try:
            read = await self._log.read(
                self._group, self._member, cursors, max_entries=max_records, max_bytes=max_bytes
            )
            for partition in read.lost:
                self._lose(partition, held[partition].lease)
            found = [(entry, self._record(entry, held[entry.partition])) for entry in read.entries]
            for entry in [entry for entry, record in found if record is None]:
                await self._park_unreadable(entry, held[entry.partition])
        except BaseException:  # A caller that cancels a poll has not seen what was delivered.
            self._read_again()
            raise
        for partition, cursor in read.cursors.items():
            held[partition].cursor = cursor if failures == self._failures else OLDEST
        records = []
        for entry, record in found:
            tenure = held[entry.partition]
            tenure.position = max(tenure.position, entry.id, key=entry_order)
            # One of a partition that was lost meanwhile goes to the next holder.
            if record and self._tenures.get(entry.partition) is tenure and entry.id not in tenure.in_flight:
                tenure.in_flight.add(entry.id)
                records.append(record)
        return records, bool(read.entries)

    def _record(self, entry: Entry, tenure: _Tenure) -> Record | None:
        if (event := events.decode(entry.data)) is None:
            return None
        return Record(
            handle=Handle(self._log.stream_id, entry.partition, entry.id),
            event=event,
            size_bytes=len(entry.data),
            deliveries=entry.deliveries,
            appended_at_s=entry.appended_at_s,
            lease=tenure.lease,
        )

    async def _park_unreadable(self, entry: Entry, tenure: _Tenure) -> None:
        log.error("partition %d, entry %s: its %d bytes are no event", entry.partition, entry.id, len(entry.data))
        reason = f"its {len(entry.data)} bytes are no event"
        await self._park(entry.partition, tenure.lease, entry.id, reason, entry.deliveries)

    async def _beat_until_closed(self) -> None:
        failing = False
        while not self._closed:
            self._beat_now.clear()
            try:
                await self._beat()
                failing = False
            except ServiceError as error:
                self._read_again()
                if not failing:
                    log.warning("%s: no heartbeat: %s", self._member, error)
                failing = True
            self._lose_expired()
            if not self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_s):
                        await self._beat_now.wait()

    async def _beat(self) -> None:
        self._lose_expired()
        sent_s = self._clock()
        held = dict(self._tenures)
        leases = {partition: each.lease for partition, each in held.items()}
        group = await self._log.heartbeat(self._group, self._member, leases, self._lease_s)
        self._lose_expired()  # What was once said to be lost stays so, though the lease is kept now: it runs out.
        for partition, tenure in held.items():
            if group.leases[partition] == tenure.lease:
                tenure.until_s = sent_s + self._lease_s
            else:
                self._lose(partition, tenure.lease)
        await self._rebalance(group.members, [not lease for lease in group.leases])

    async def _rebalance(self, members: Collection[str], free: Sequence[bool]) -> None:
        now_s = self._clock()
        giving_up = [partition for partition, each in self._tenures.items() if each.given_up_at_s is not None]
        todo = plan(self._member, members, free=free, held=self._tenures.keys(), giving_up=giving_up)
        release: dict[int, str] = {}
        for partition, tenure in [*self._tenures.items()]:
            if partition not in todo.give_up:
                tenure.given_up_at_s = None
                continue
            tenure.given_up_at_s = now_s if tenure.given_up_at_s is None else tenure.given_up_at_s
            if not tenure.in_flight or now_s >= tenure.given_up_at_s + self._lease_s:
                release[partition] = tenure.lease
                self._lose(partition, tenure.lease)
        if release:
            await self._log.release(self._group, release)
        if todo.take:
            await self._take(todo.take)

    async def _take(self, partitions: Sequence[int]) -> None:
        wanted = {}
        for partition in partitions:
            self._leases += 1
            wanted[partition] = f"{self._member}/{self._leases}"
        sent_s = self._clock()
        for partition, position in (await self._log.take(self._group, wanted, self._lease_s)).items():
            self._tenures[partition] = _Tenure(wanted[partition], sent_s + self._lease_s, position)
            self._gained.append(partition)
        self._changed.set()

    def _check_heart(self) -> None:
        """Raise what ended the heartbeats, such as a stream that was made anew with other partitions."""
        if self._heart is not None and self._heart.done() and not self._closed:
            self._heart.result()

    def _held(self) -> dict[int, _Tenure]:
        now_s = self._clock()
        return {partition: each for partition, each in self._tenures.items() if now_s < each.until_s}

    def _readable(self) -> dict[int, _Tenure]:
        return {number: each for number, each in sorted(self._held().items()) if each.given_up_at_s is None}

    def _lose_expired(self) -> None:
        for partition in self._tenures.keys() - self._held().keys():
            log.warning("%s: the lease of partition %d has run out", self._member, partition)
            self._lose(partition, self._tenures[partition].lease)

    def _lose(self, partition: int, lease: str) -> None:
        tenure = self._tenures.get(partition)
        if tenure is None or tenure.lease != lease:
            return
        del self._tenures[partition]
        if partition in self._gained:  # Nobody was told of it.
            self._gained.remove(partition)
        else:
            self._lost.append(partition)
        self._changed.set()
        self._beat_now.set()

    def _done_with(self, partition: int, lease: str, entries: Sequence[str]) -> None:
        tenure = self._tenures.get(partition)
        if tenure is None or tenure.lease != lease:
            return
        tenure.in_flight.difference_update(entries)
        if tenure.given_up_at_s is not None and not tenure.in_flight:
            self._beat_now.set()

    def _read_again(self) -> None:
        """After a failure, read from the oldest that is not acked: what was delivered or acked may have been lost.

        The answer to a read may be lost on its way, and a Redis that was killed may have forgotten the last acks.
        """
        self._failures += 1
        for tenure in self._tenures.values():
            tenure.cursor = OLDEST

    async def _pause(self, until_s: float) -> None:
        """Wait until a partition is gained or lost, a short time or until the caller's time is over."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(until_s - self._clock(), _WAIT_S))):
                await self._changed.wait()


def entry_order(entry: str) -> tuple[int, int]:
    """Sorts the ids of a partition's entries, "milliseconds-number", by the order in which they were appended."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)
