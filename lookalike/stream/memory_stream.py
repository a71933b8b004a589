"""The stream of product events in one process's memory, for tests and for a system of one process. No I/O.

It keeps what it is given as long as the process lives, and is otherwise as the one in Redis: one contract holds both.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lookalike.errors import NotFound, Overloaded
from lookalike.runtime.partition import shard_of
from lookalike.stream import event as events
from lookalike.stream.consumer import LeasedConsumer, entry_order
from lookalike.stream.partition_log import NEW, OLDEST, Cursor, Entry, Group, Read
from lookalike.stream.product_stream import (
    Consumer,
    DeadLetter,
    EventState,
    EventStatus,
    Handle,
    StreamStatus,
)
from lookalike.stream.settings import FULL_RETRY_S
from lookalike.timestamps import unix_time_s
from lookalike.v1.event_pb2 import ProductEvent


@dataclass(slots=True)
class _Pending:
    member: str
    deliveries: int


@dataclass(slots=True)
class _GroupState:
    members: dict[str, float] = field(default_factory=dict)  # Until when each is one.
    leases: dict[int, tuple[str, float]] = field(default_factory=dict)  # Of each partition, and until when.
    delivered: dict[int, str] = field(default_factory=dict)  # Of each partition the newest entry that was.
    pending: dict[int, dict[str, _Pending]] = field(default_factory=dict)  # Of each partition, in order.


@dataclass(slots=True)
class _Partition:
    ids: list[str] = field(default_factory=list)  # Rising.
    entries: dict[str, bytes] = field(default_factory=dict)
    newest: str = OLDEST


class MemoryStream:
    """A `ProductStream` and `PartitionLog` in memory. For use on one event loop.

    clock:       for leases, in seconds.
    unix_time_s: for the times of entries.
    """

    def __init__(
        self,
        partitions: int,
        *,
        max_events: int = 1_000_000,
        lease_s: float = 10.0,
        heartbeat_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        unix_time_s: Callable[[], float] = unix_time_s,
    ) -> None:
        self._id = secrets.token_hex(4)
        self._partitions = [_Partition() for _ in range(partitions)]
        self._max_events = max_events
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._unix_time_s = unix_time_s
        self._groups: dict[str, _GroupState] = {}
        self._dead: dict[str, tuple[DeadLetter, bytes]] = {}
        self._gone: dict[Handle, Handle | str] = {}  # Dead letters by their event: replayed as, or dropped for.
        self._appended = asyncio.Event()

    @property
    def stream_id(self) -> str:
        return self._id

    @property
    def partitions(self) -> int:
        return len(self._partitions)

    async def append(self, events_: Sequence[ProductEvent]) -> Sequence[Handle]:
        return self.append_bytes([(events.product_id_of(each.change), events.encode(each)) for each in events_])

    def append_bytes(self, entries: Sequence[tuple[str, bytes]]) -> Sequence[Handle]:
        """Append what may be no events, each with the id of its product. Raises Overloaded."""
        if (kept := self._kept()) + len(entries) > self._max_events:
            raise Overloaded(f"the stream holds {kept} events of {self._max_events}", retry_after_s=FULL_RETRY_S)
        handles = []
        for product_id, data in entries:
            number = shard_of(product_id, len(self._partitions))
            partition = self._partitions[number]
            partition.newest = self._next_id(partition.newest)
            partition.ids.append(partition.newest)
            partition.entries[partition.newest] = data
            handles.append(Handle(self._id, number, partition.newest))
        self._appended.set()
        self._appended = asyncio.Event()
        return handles

    def consumer(self, group: str, name: str) -> Consumer:
        return LeasedConsumer(
            self, group, name, lease_s=self._lease_s, heartbeat_s=self._heartbeat_s, clock=self._clock
        )

    async def statuses(self, group: str, handles: Sequence[Handle]) -> Sequence[EventStatus]:
        return [self._status_of(group, handle) for handle in handles]

    async def status(self, group: str) -> StreamStatus:
        unacked = [entry for number in range(len(self._partitions)) for entry in self._unacked(group, number)]
        oldest_s = min(map(_time_of, unacked), default=None)
        return StreamStatus(
            events=sum(len(each.entries) for each in self._partitions),
            max_events=self._max_events,
            lag=len(unacked),
            oldest_s=0.0 if oldest_s is None else max(0.0, self._unix_time_s() - oldest_s),
            dead_letters=len(self._dead),
        )

    async def trim(self, *, older_than_s: float) -> int:
        before_s, trimmed = self._unix_time_s() - older_than_s, 0
        for number, partition in enumerate(self._partitions):
            unacked = {entry for group in self._groups for entry in self._unacked(group, number)}
            kept = (i for i, id in enumerate(partition.ids) if id in unacked or _time_of(id) >= before_s)
            count = next(kept, len(partition.ids)) if self._groups else 0
            for id in partition.ids[:count]:
                del partition.entries[id]
            del partition.ids[:count]
            trimmed += count
        return trimmed

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        start = entry_order(after or OLDEST)
        return [letter for id, (letter, _) in self._dead.items() if entry_order(id) > start][:limit]

    async def dead_letter(self, id: str) -> DeadLetter:
        return self._dead_letter(id)[0]

    async def replay(self, id: str) -> Handle:
        letter, _ = self._dead_letter(id)
        event = events.replayed(id, letter.event, self._unix_time_s())
        (handle,) = await self.append([event])
        del self._dead[id]
        self._gone[letter.handle] = handle
        return handle

    async def drop(self, id: str) -> None:
        letter, _ = self._dead_letter(id)
        del self._dead[id]
        self._gone[letter.handle] = letter.reason

    async def close(self) -> None:
        """Nothing is open."""

    # As a PartitionLog.

    async def heartbeat(self, group: str, member: str, leases: Mapping[int, str], lease_s: float) -> Group:
        state, now_s = self._groups.setdefault(group, _GroupState()), self._clock()
        state.members[member] = now_s + lease_s
        state.members = {name: until_s for name, until_s in state.members.items() if now_s < until_s}
        for partition, lease in leases.items():
            if self._has(state, partition, lease):
                state.leases[partition] = (lease, now_s + lease_s)
        return Group([*state.members], [self._lease(state, each) for each in range(len(self._partitions))])

    async def take(self, group: str, leases: Mapping[int, str], lease_s: float) -> Mapping[int, str]:
        state, taken = self._groups[group], {}
        for partition, lease in leases.items():
            if not self._lease(state, partition):
                state.leases[partition] = (lease, self._clock() + lease_s)
                taken[partition] = state.delivered.get(partition, OLDEST)
        return taken

    async def release(self, group: str, leases: Mapping[int, str]) -> None:
        state = self._groups[group]
        for partition, lease in leases.items():
            if self._has(state, partition, lease):
                del state.leases[partition]

    async def leave(self, group: str, member: str, leases: Mapping[int, str]) -> None:
        if (state := self._groups.get(group)) is not None:
            state.members.pop(member, None)
            await self.release(group, leases)

    async def read(
        self, group: str, member: str, cursors: Mapping[int, Cursor], *, max_entries: int, max_bytes: int
    ) -> Read:
        state, entries, after, lost = self._groups[group], list[Entry](), dict[int, str](), list[int]()
        size_bytes = 0
        for number, cursor in cursors.items():
            if not self._has(state, number, cursor.lease):
                lost.append(number)
                continue
            after[number] = cursor.after
            while len(entries) < max_entries and size_bytes < max_bytes:
                if (entry := self._deliver(state, number, after, member)) is None:
                    break
                entries.append(entry)
                size_bytes += len(entry.data)
        return Read(entries, after, lost)

    async def wait(self, positions: Mapping[int, str], wait_s: float) -> bool:
        appended = self._appended
        if any(
            entry_order(self._partitions[number].newest) > entry_order(position)
            for number, position in positions.items()
        ):
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                return await appended.wait()
        return False

    async def ack(self, group: str, entries: Mapping[int, tuple[str, Sequence[str]]]) -> Collection[int]:
        state, lost = self._groups[group], list[int]()
        for partition, (lease, ids) in entries.items():
            if not self._has(state, partition, lease):
                lost.append(partition)
                continue
            for entry in ids:
                state.pending.get(partition, {}).pop(entry, None)
        return lost

    async def park(self, group: str, partition: int, lease: str, entry: str, *, reason: str, attempts: int) -> bool:
        state = self._groups[group]
        if not self._has(state, partition, lease):
            return False
        if state.pending.get(partition, {}).pop(entry, None) is not None:
            data = self._partitions[partition].entries[entry]
            id = self._next_id(next(reversed(self._dead), OLDEST))
            letter = DeadLetter(
                id=id,
                handle=Handle(self._id, partition, entry),
                event=events.decode(data),
                reason=reason,
                attempts=attempts,
                group=group,
                appended_at_s=_time_of(entry),
                parked_at_s=_time_of(id),
            )
            self._dead[id] = (letter, data)
        return True

    def _deliver(self, state: _GroupState, number: int, after: dict[int, str], member: str) -> Entry | None:
        """The next entry of a partition, and move on behind it."""
        partition, pending = self._partitions[number], state.pending.setdefault(number, {})
        if after[number] != NEW:
            behind = entry_order(after[number])
            id = next((each for each in pending if entry_order(each) > behind), None)
            if id is not None:
                after[number] = id
                if pending[id].member != member:
                    pending[id] = _Pending(member, pending[id].deliveries + 1)
                return Entry(number, id, partition.entries[id], pending[id].deliveries, _time_of(id))
            after[number] = NEW
        ids = partition.ids
        behind = entry_order(state.delivered.get(number, OLDEST))
        if (next_ := bisect_right(ids, behind, key=entry_order)) == len(ids):
            return None
        id = state.delivered[number] = ids[next_]
        pending[id] = _Pending(member, 1)
        return Entry(number, id, partition.entries[id], 1, _time_of(id))

    def _unacked(self, group: str, number: int) -> list[str]:
        state = self._groups.get(group, _GroupState())
        delivered, pending = entry_order(state.delivered.get(number, OLDEST)), state.pending.get(number, {})
        ids = self._partitions[number].ids
        return [*pending, *ids[bisect_right(ids, delivered, key=entry_order) :]]

    def _status_of(self, group: str, handle: Handle) -> EventStatus:
        while isinstance(gone := self._gone.get(handle), Handle):
            handle = gone
        if isinstance(gone, str):
            return EventStatus(EventState.DEAD, events.dropped(gone))
        for letter, _ in self._dead.values():
            if letter.handle == handle and letter.group == group:
                return EventStatus(EventState.DEAD, letter.reason)
        known = handle.stream == self._id and handle.partition < len(self._partitions)
        if not known or entry_order(handle.entry) > entry_order(self._partitions[handle.partition].newest):
            return EventStatus(EventState.UNKNOWN)
        pending = handle.entry in self._unacked(group, handle.partition)
        return EventStatus(EventState.PENDING if pending else EventState.DONE)

    def _dead_letter(self, id: str) -> tuple[DeadLetter, bytes]:
        if (found := self._dead.get(id)) is None:
            raise NotFound(f"no dead letter {id}")
        return found

    def _kept(self) -> int:
        return sum(len(each.entries) for each in self._partitions) + len(self._dead)

    def _lease(self, state: _GroupState, partition: int) -> str:
        lease, until_s = state.leases.get(partition, ("", 0.0))
        return lease if self._clock() < until_s else ""

    def _has(self, state: _GroupState, partition: int, lease: str) -> bool:
        return self._lease(state, partition) == lease

    def _next_id(self, newest: str) -> str:
        """An id after the newest, though the clock may have gone back."""
        milliseconds, number = entry_order(newest)
        now_ms = int(self._unix_time_s() * 1000)
        return f"{now_ms}-0" if now_ms > milliseconds else f"{milliseconds}-{number + 1}"


def _time_of(entry: str) -> float:
    return entry_order(entry)[0] / 1000
