"""Searches of several shards: who is waited for, for how long, and what is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from lookalike.errors import DeadlineExceeded, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2
from server.change_history import ChangeHistory
from server.settings import ServiceSettings
from server.shard_group import ShardGroup
from server.shard_transport import ShardTransport
from server.topology import Snapshot

SECONDS = 60.0  # A time-out that no test reaches.
SOON = 0.02
QUERY = ShardQuery({}, (), b"", 10, False, False)


class ScriptedShard:
    """Answers searches when `answer` is set, and counts those that it was asked for and that were cancelled."""

    in_service = 1
    numbering = ""

    def __init__(self, address: str, *, answers: bool = True) -> None:
        self.address = address
        self.answer = asyncio.Event()
        if answers:
            self.answer.set()
        self.asked = self.cancelled = 0
        self.searches = asyncio.Semaphore(0)  # Those that have arrived.

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        self.asked += len(queries)
        for _ in queries:
            self.searches.release()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled += len(queries)
            raise
        return [ShardHits(products=[self.address.encode()])] * len(queries)

    async def close(self) -> None:
        """Nothing is open."""

    async def watch(self) -> None:
        """There is nothing to watch."""

    def sources(self) -> Sequence[ShardTransport]:
        return (self,)

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        raise NotImplementedError

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]:
        raise NotImplementedError

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse:
        raise NotImplementedError

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int:
        raise NotImplementedError

    def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        raise NotImplementedError

    def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        raise NotImplementedError

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse:
        raise NotImplementedError

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None:
        raise NotImplementedError


def a_group(*shards: ScriptedShard, timeout_s: float = SOON) -> tuple[ShardGroup, Snapshot]:
    snapshot = Snapshot("v1", {}, (True,) * len(shards), ChangeHistory(len(shards)))
    return ShardGroup(shards, ServiceSettings(shard_timeout_s=timeout_s, shard_inflight=64)), snapshot


async def test_a_late_shard_is_missing_and_the_others_are_there() -> None:
    late = ScriptedShard("late", answers=False)
    group, snapshot = a_group(ScriptedShard("first"), late, ScriptedShard("last"))
    results = await group.search(snapshot, QUERY, Deadline.after(SECONDS))
    assert [hits and hits.products for hits in results.hits] == [[b"first"], None, [b"last"]]
    assert results.failures == ["shard 1: no answer within 0.02 s"]


async def test_every_search_is_given_up_at_its_own_time() -> None:
    late = ScriptedShard("late", answers=False)
    group, snapshot = a_group(late)

    async def search_after(delay_s: float) -> float:
        await asyncio.sleep(delay_s)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="no answer within"):
            await group.search(snapshot, QUERY, Deadline.after(SECONDS))
        return asyncio.get_running_loop().time() - began_s

    waited_s = await asyncio.gather(*(search_after(delay_s) for delay_s in (0, SOON / 2, SOON, 4 * SOON)))
    assert late.asked == 4
    assert min(waited_s) >= SOON


async def test_a_search_whose_deadline_comes_first_is_given_up_then() -> None:
    group, snapshot = a_group(ScriptedShard("late", answers=False), timeout_s=SECONDS)
    with pytest.raises(DeadlineExceeded, match="no answer within"):
        await group.search(snapshot, QUERY, Deadline.after(SOON))


async def test_searches_that_were_answered_are_not_given_up_later() -> None:
    shard = ScriptedShard("a")
    group, snapshot = a_group(shard)
    for _ in range(3):
        assert not (await group.search(snapshot, QUERY, Deadline.after(SECONDS))).failures
    await asyncio.sleep(2 * SOON)
    assert not (await group.search(snapshot, QUERY, Deadline.after(SECONDS))).failures
    assert (shard.asked, shard.cancelled) == (4, 0)


async def test_a_search_that_is_cancelled_gives_up_what_waits_and_leaves_the_others() -> None:
    late = ScriptedShard("late", answers=False)
    group, snapshot = a_group(ScriptedShard("a"), late, timeout_s=SECONDS)
    cancelled, kept = (asyncio.create_task(group.search(snapshot, QUERY, Deadline.after(SECONDS))) for _ in range(2))
    for _ in range(2):
        await late.searches.acquire()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    late.answer.set()
    assert [hits and hits.products for hits in (await kept).hits] == [[b"a"], [b"late"]]
