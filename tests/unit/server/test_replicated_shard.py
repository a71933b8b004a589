"""A shard of several replicas, over fakes of them: who is read, who is written to, and what failures do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from lookalike.errors import FailedPrecondition, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.call import Call, answering
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import PeerPosition, UpdateResult
from server.replicated_shard import ReplicatedShard
from server.settings import GatewaySettings
from server.shard_transport import ConnectionFailed, ShardTransport

SECONDS = 60.0  # A time-out that no test reaches.
QUERY = ShardQuery({}, (), b"", 10, False, False)


@dataclass
class FakeReplica:
    """A replica that answers, fails or hangs as a test wants; it takes changes, and its peers' by `pull`."""

    address: str
    versions: Sequence[str] = ("v1",)
    name: str = ""
    error: LookalikeError | None = None
    apply_error: LookalikeError | None = None
    outcome: UpdateResult.Outcome.ValueType = UpdateResult.APPLIED
    catching_up: bool = False
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    searches: int = 0
    cancelled: int = 0
    sequence: int = 0
    has: dict[str, int] = field(default_factory=dict)  # Of its peers, by their names.
    is_closed: bool = False
    in_service: int = 1
    numbering: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.address
        self.answers.set()

    def pull(self, *others: FakeReplica) -> None:
        """Get what its peers have."""
        self.has = {each.name: each.sequence for each in others}
        self.sequence = max(self.sequence, *(each.sequence for each in others))

    def sources(self) -> Sequence[ShardTransport]:
        return (self,)

    async def watch(self) -> None:
        """There is nothing to watch."""

    async def close(self) -> None:
        self.is_closed = True

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse:
        await self._answer("")
        states = [index_pb2.ShardState(version=each, sequence=self.sequence) for each in self.versions]
        peers = [
            PeerPosition(replica=name, version=version, sequence=sequence)
            for name, sequence in self.has.items()
            for version in self.versions
        ]
        return index_pb2.DescribeResponse(versions=states, replica=self.name, catching_up=self.catching_up, peers=peers)

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        self.searches += 1
        await self._answer(version)
        return [ShardHits(products=[self.address.encode()])] * len(queries)

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]:
        await self._answer(request.version)
        return [index_pb2.FetchedProduct(product=self.address.encode())]

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int:
        await self._answer(request.version)
        return 7

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse:
        if self.apply_error is not None:
            raise self.apply_error
        await self._answer(request.version)
        self.sequence += len(request.updates)
        results = [UpdateResult(outcome=self.outcome, revision=each.revision) for each in request.updates]
        return index_pb2.ApplyResponse(results=results, sequence=self.sequence)

    async def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        for product_id in ("p1", "p2", "p3"):
            if product_id > request.after:
                await self._answer(request.version)
                yield index_pb2.ShardListPage(ids=[product_id], products=[self.address.encode()])

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        yield index_pb2.ListChangesPage(sequence=self.sequence)

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse:
        await self._answer("")
        return index_pb2.SealResponse(sequence=self.sequence)

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None:
        await self._answer("")

    async def _answer(self, version: str) -> None:
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        if version and version not in self.versions:
            raise FailedPrecondition(f"serves {self.versions}, not {version}")


class Names:
    """Addresses by name, as DNS has them."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = names

    async def resolve(self, address: str) -> Sequence[str]:
        found = self.names.get(address, [address])
        if not found:
            raise OSError(address)
        return found


@asynccontextmanager
async def shard_of(
    *replicas: FakeReplica, addresses: Sequence[str] = (), names: Names | None = None, **settings: Any
) -> AsyncIterator[ReplicatedShard]:
    """A shard of these replicas, which has been described once, and is watched."""
    by_address: Mapping[str, FakeReplica] = {each.address: each for each in replicas}
    shard = ReplicatedShard(
        0,
        addresses or [*by_address],
        GatewaySettings(**{"refresh_s": 0.05, "shard_hang_s": 0.2, **settings}),
        connect=lambda address, name: by_address[address],
        resolve=(names or Names()).resolve,
    )
    watching = asyncio.create_task(shard.watch())
    try:
        with suppress(Unavailable):
            await describe(shard)
        yield shard
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await shard.close()


async def describe(shard: ReplicatedShard, known: int = 0) -> index_pb2.DescribeResponse:
    return await shard.describe(index_pb2.DescribeRequest(pinned="v1", known_sequence=known), SECONDS)


async def search(shard: ReplicatedShard, version: str = "v1", *, ordinary_only: bool = True) -> str:
    """The address of the replica that answered."""
    (hits,) = await shard.search(version, [QUERY], SECONDS, ordinary_only=ordinary_only)
    return hits.products[0].decode()


async def apply(shard: ReplicatedShard, count: int = 1, version: str = "v1") -> index_pb2.ApplyResponse:
    updates = [index_pb2.Update(revision=i + 1, remove=f"p{i}") for i in range(count)]
    return await shard.apply(index_pb2.ApplyRequest(version=version, updates=updates), SECONDS)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # nothing tells when
            await asyncio.sleep(0.01)


async def answers(shard: ReplicatedShard) -> bool:
    try:
        await describe(shard)
    except Unavailable:
        return False
    return True


async def until_read(shard: ReplicatedShard, replicas: int) -> None:
    """Until so many replicas are in service, while the shard is polled."""
    async with asyncio.timeout(30):
        while shard.in_service != replicas:
            with suppress(Unavailable):
                await describe(shard)
            await asyncio.sleep(0.02)


# Reads.


async def test_reads_go_to_the_replica_with_the_fewest_calls_in_flight() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b, hedge_share=0.0) as shard:
        a.answers.clear()
        b.answers.clear()
        calls = [asyncio.create_task(search(shard)) for _ in range(4)]
        await until(lambda: a.searches + b.searches == 4)
        assert (a.searches, b.searches) == (2, 2)
        a.answers.set()
        b.answers.set()
        await asyncio.gather(*calls)


async def test_a_late_read_is_sent_to_another_replica_too_and_the_loser_is_cancelled() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b, shard_hang_s=30.0) as shard:
        a.answers.clear()
        assert await search(shard) == "b:1"
        await until(lambda: a.cancelled == 1)
        assert await search(shard) == "b:1"  # Which is faster, as far as is known.


async def test_the_call_of_a_read_that_was_sent_again_says_so() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    call = Call("/a.B/C")
    async with shard_of(a, b) as shard:
        for replica in (a, b):
            replica.error = ConnectionFailed("broken")
        with answering(call, None), suppress(Unavailable):
            await search(shard)
    assert call.notes == ("retried",)


async def test_costly_searches_are_not_sent_twice_and_are_no_sign_of_a_hang() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        slow = asyncio.Event()

        async def search_for_long(*_: Any, **__: Any) -> Sequence[ShardHits]:
            a.searches += 1
            await slow.wait()
            return [ShardHits(products=[b"a:1"])]

        a.search = search_for_long  # type: ignore[method-assign]  # its other calls are answered
        call = asyncio.create_task(search(shard, ordinary_only=False))
        await asyncio.sleep(0.8)  # Four times `shard_hang_s`.
        assert (a.searches, b.searches, shard.in_service) == (1, 0, 2)
        slow.set()
        assert await call == "a:1"


async def test_a_read_of_a_replica_that_fails_is_answered_by_another_and_it_is_asked_no_more() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        a.error = ConnectionFailed("shard a:1: broken")
        assert [await search(shard) for _ in range(20)] == ["b:1"] * 20
        assert (a.searches, shard.in_service) == (1, 1)
        a.error = None
        await until_read(shard, 2)


async def test_reads_in_flight_to_a_replica_that_hangs_are_answered_by_another() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b, hedge_share=0.0) as shard:
        a.answers.clear()
        b.answers.clear()
        calls = [asyncio.create_task(search(shard)) for _ in range(20)]
        await until(lambda: a.searches == b.searches == 10)
        b.answers.set()
        assert await asyncio.gather(*calls) == ["b:1"] * 20
        assert shard.in_service == 1
        a.answers.set()
        await until(lambda: shard.in_service == 2)  # By the probe alone.


async def test_the_calls_of_the_only_replica_fail_at_once_while_it_hangs() -> None:
    only = FakeReplica("a:1")
    async with shard_of(only) as shard:
        only.answers.clear()
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"shard a:1: no answer for 0\.2 s"):
                await search(shard)
        assert only.searches == 1
        only.answers.set()
        async with asyncio.timeout(30):
            while not await answers(shard):  # noqa: ASYNC110  # a probe brings it back
                await asyncio.sleep(0.02)
        assert await search(shard) == "a:1"


async def test_a_version_is_asked_of_replicas_that_serve_it() -> None:
    a, b = FakeReplica("a:1", ["v2"]), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        assert [await search(shard), await search(shard, "v2")] == ["b:1", "a:1"]
        b.versions, a.versions = ["v2"], ["v2", "v1"]
        await describe(shard)
        assert {await search(shard) for _ in range(5)} == {"a:1"}


async def test_where_a_replica_does_not_serve_the_version_any_more_another_is_asked() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        a.versions = ["v2"]  # As after a restart, before it is polled.
        assert {await search(shard) for _ in range(5)} == {"b:1"}
        b.versions = ["v2"]
        with pytest.raises(FailedPrecondition):
            await search(shard, "v3")


async def test_errors_of_the_shard_are_not_tried_elsewhere() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        a.error = b.error = Overloaded("full")
        with pytest.raises(Overloaded):
            await search(shard)
        assert a.searches + b.searches == 1


async def test_a_listing_goes_on_at_another_replica() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        pages = shard.list(index_pb2.ShardListRequest(version="v1"), None)
        first = await anext(pages)
        a.error = ConnectionFailed("shard a:1: broken")
        rest = [page async for page in pages]
        assert [page.ids[0] for page in (first, *rest)] == ["p1", "p2", "p3"]
        assert [page.products[0] for page in (first, *rest)] == [b"a:1", b"b:1", b"b:1"]


async def test_a_replica_that_catches_up_is_read_only_where_there_is_no_other() -> None:
    a, b = FakeReplica("a:1", catching_up=True), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        assert {await search(shard) for _ in range(5)} == {"b:1"}
        assert not (await describe(shard)).catching_up
        b.error = ConnectionFailed("shard b:1: broken")
        assert {await search(shard) for _ in range(5)} == {"a:1"}
        assert (await describe(shard)).catching_up  # So that answers say what they may lack.
        a.catching_up = False
        await until_read(shard, 1)
        assert not (await describe(shard)).catching_up


async def test_changes_of_several_replicas_have_numbers_that_no_other_gateway_has() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a) as alone, shard_of(a, b) as shard, shard_of(a, b) as of_another_gateway:
        assert alone.numbering == ""
        assert shard.numbering != of_another_gateway.numbering != ""


async def test_a_poll_does_not_wait_for_a_replica_that_hangs() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        a.answers.clear()
        await until_read(shard, 1)
        async with asyncio.timeout(30):  # Of a time-out of a minute.
            assert [state.version for state in (await describe(shard)).versions] == ["v1"]


async def test_two_addresses_of_one_process_are_one_replica() -> None:
    a, b = FakeReplica("a:1", name="one"), FakeReplica("b:1", name="one")
    async with shard_of(a, b) as shard:
        assert shard.in_service == 1
        await apply(shard)
        assert (a.sequence, b.sequence) == (1, 0)


# Names.


async def test_replicas_follow_the_addresses_of_their_name() -> None:
    a, b, c = FakeReplica("a:1"), FakeReplica("b:1"), FakeReplica("c:1")
    names = Names(shard=["b:1", "a:1"])
    async with shard_of(a, b, c, addresses=["shard"], names=names) as shard:
        assert shard.in_service == 2
        names.names = {"shard": ["c:1", "b:1"]}
        await until(lambda: a.is_closed)
        await until_read(shard, 2)
        assert {await search(shard) for _ in range(20)} <= {"b:1", "c:1"}
        names.names = {"shard": []}
        await asyncio.sleep(0.2)
        assert shard.in_service == 2


async def test_calls_to_a_replica_that_is_gone_end_before_it_is_closed() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    names = Names(shard=["a:1"])
    async with shard_of(a, b, addresses=["shard"], names=names, shard_hang_s=30.0) as shard:
        a.answers.clear()
        call = asyncio.create_task(search(shard))
        await until(lambda: a.searches == 1)
        names.names = {"shard": ["b:1"]}
        await until(lambda: shard.sources() == [b])
        assert await search(shard) == "b:1"
        assert not a.is_closed
        a.answers.set()
        assert await call == "a:1"
        await until(lambda: a.is_closed)


# Writes.


async def test_a_change_is_made_by_all_replicas() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        response = await apply(shard, 2)
        assert [each.outcome for each in response.results] == [UpdateResult.APPLIED] * 2
        assert (a.sequence, b.sequence) == (2, 2)


@pytest.mark.parametrize("error", [ConnectionFailed("shard b:1: broken"), Unavailable("late"), Overloaded("disk full")])
async def test_a_replica_that_missed_a_change_is_not_read_until_its_peers_brought_it(error: LookalikeError) -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    a.pull(b)
    b.pull(a)
    async with shard_of(a, b) as shard:
        b.apply_error = error
        await apply(shard)
        assert {await search(shard) for _ in range(5)} == {"a:1"}
        b.apply_error = None
        for _ in range(5):
            await describe(shard)
            await asyncio.sleep(0.05)
        assert shard.in_service == 1
        b.pull(a)
        await until_read(shard, 2)


async def test_under_changes_all_the_time_a_replica_comes_back() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    a.pull(b)
    b.pull(a)
    async with shard_of(a, b) as shard:
        b.apply_error = ConnectionFailed("shard b:1: broken")
        await apply(shard)
        b.apply_error = None
        stops = False

        async def write() -> None:
            while not stops:
                await apply(shard)
                await asyncio.sleep(0.002)

        async def pull() -> None:
            while not stops:
                await asyncio.sleep(0.1)
                b.pull(a)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            tasks.create_task(pull())
            await until_read(shard, 2)
            stops = True


async def test_without_peers_a_replica_that_missed_a_change_holds_up_no_other_change() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        b.apply_error = ConnectionFailed("shard b:1: broken")
        await apply(shard)
        b.apply_error = None
        for _ in range(10):
            await describe(shard)
            assert (await asyncio.wait_for(apply(shard), 30)).results
        assert shard.in_service == 1


async def test_a_change_of_fewer_replicas_than_the_quorum_is_unavailable() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b, write_quorum=2) as shard:
        b.apply_error = ConnectionFailed("shard b:1: broken")
        with pytest.raises(Unavailable, match="1 replicas have made the change, it needs 2"):
            await apply(shard)
        assert a.sequence == 1
        with pytest.raises(Unavailable, match="1 replicas are in service, a change needs 2"):
            await apply(shard)
        assert a.sequence == 1  # It was not begun.


async def test_what_all_replicas_say_is_the_error() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        a.apply_error = b.apply_error = Overloaded("too many updates wait")
        with pytest.raises(Overloaded):
            await apply(shard)
        a.apply_error = b.apply_error = FailedPrecondition("takes no updates")
        with pytest.raises(FailedPrecondition):
            await apply(shard)
        assert shard.in_service == 2  # None has what another one lacks.


async def test_a_replica_that_does_not_serve_the_version_lacks_nothing() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        b.versions = ["v2"]  # It says so when it is asked to make the change.
        for _ in range(2):
            assert (await apply(shard)).results[0].outcome == UpdateResult.APPLIED
            await describe(shard)
        assert (a.sequence, b.sequence, shard.in_service) == (2, 0, 2)


async def test_a_replica_that_lacks_the_product_is_behind_the_one_that_has_it() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1", outcome=UpdateResult.NOT_FOUND)
    async with shard_of(a, b) as shard:
        assert (await apply(shard)).results[0].outcome == UpdateResult.APPLIED
        assert {await search(shard) for _ in range(5)} == {"a:1"}


async def test_a_handover_reads_every_replica_and_seals_all() -> None:
    a, b = FakeReplica("a:1"), FakeReplica("b:1")
    async with shard_of(a, b) as shard:
        assert [each.address for each in shard.sources()] == ["a:1", "b:1"]
        await shard.seal(index_pb2.SealRequest(version="v1", seconds=1), SECONDS)
        b.error = Unavailable("late")
        with pytest.raises(Unavailable):
            await shard.finish_handover(index_pb2.FinishHandoverRequest(version="v1"), SECONDS)
