"""What a consumer needs of the store that keeps a stream: entries, groups, leases. A Protocol; no I/O.

The memory and the Redis stream have it; everything that a consumer decides is above it (`lookalike.stream.consumer`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# A cursor that is past the entries which were delivered before and not acked; any other is one of these.
NEW = ">"
OLDEST = "0-0"


@dataclass(frozen=True, slots=True)
class Group:
    """A group as a heartbeat finds it."""

    members: Collection[str]
    leases: Sequence[str]  # Of each partition, that which holds it; empty: none does.


@dataclass(frozen=True, slots=True)
class Entry:
    partition: int
    id: str
    data: bytes
    deliveries: int
    appended_at_s: float


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a lease is read on: after this entry of those that were delivered before, or at NEW ones."""

    lease: str
    after: str


@dataclass(frozen=True, slots=True)
class Read:
    entries: Sequence[Entry]
    cursors: Mapping[int, str]  # Of every partition that was read, where to go on.
    lost: Collection[int]  # Partitions whose lease is not the group's any more.


class PartitionLog(Protocol):
    """All of it raises Unavailable. Everything that names a lease is done only while the lease holds its partition."""

    @property
    def stream_id(self) -> str: ...

    @property
    def partitions(self) -> int: ...

    async def heartbeat(self, group: str, member: str, leases: Mapping[int, str], lease_s: float) -> Group:
        """Stay a member, and keep the leases, for `lease_s` from now. A group that is not there is created."""

    async def take(self, group: str, leases: Mapping[int, str], lease_s: float) -> Mapping[int, str]:
        """Take partitions that nobody holds: of each that was, the newest entry that its group has been delivered."""

    async def release(self, group: str, leases: Mapping[int, str]) -> None: ...

    async def leave(self, group: str, member: str, leases: Mapping[int, str]) -> None:
        """Be no member any more, and release the leases."""

    async def read(
        self, group: str, member: str, cursors: Mapping[int, Cursor], *, max_entries: int, max_bytes: int
    ) -> Read:
        """Deliver entries, partition after partition in the given order, until a bound is reached: one at least.

        An entry's deliveries are counted by members: that it is read again by one counts nothing.
        """

    async def wait(self, positions: Mapping[int, str], wait_s: float) -> bool:
        """Return when a partition has an entry after its position: True; or after `wait_s`."""

    async def ack(self, group: str, entries: Mapping[int, tuple[str, Sequence[str]]]) -> Collection[int]:
        """Ack entries, by partition with its lease. Returns the partitions whose leases are lost: nothing is acked."""

    async def park(self, group: str, partition: int, lease: str, entry: str, *, reason: str, attempts: int) -> bool:
        """Ack an entry and make it a dead letter, once. False: the lease is lost."""
