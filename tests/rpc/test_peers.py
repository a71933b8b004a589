"""Replicas of one shard: real shards with live directories, which take from each other the changes that they lack."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client import REGISTRY

from index.building.build import build
from index.serving import peers
from index.serving.peer_progress import LATE_S
from index.serving.settings import PeerSettings, ShardSettings
from index.serving.shard import RunningShard, open_shards, running
from lookalike.channels import aio_channel
from lookalike.local import probes
from lookalike.releases import version
from lookalike.runtime import edge
from lookalike.v1 import index_pb2_grpc
from lookalike.v1.index_pb2 import (
    ApplyRequest,
    DescribeRequest,
    DescribeResponse,
    FetchRequest,
    Patch,
    ShardListRequest,
    ShardQuery,
    ShardSearchRequest,
    Update,
    UpdateResult,
    Upsert,
)
from lookalike.v1.types_pb2 import Product, SpaceVector
from tests.unit.index.samples import IMAGE, catalogue, query_vector, unit_vectors, vectors_of

COUNT, DIM = 40, 8
CHANGED = [f"p{i}" for i in range(1, 6)]
ALONE_S = 0.3  # Until a replica whose peers are down goes into service.


def build_version(root: Path, seed: int = 0, encoder: str = "drawn", shards: int = 1) -> str:
    vectors = vectors_of(unit_vectors(COUNT, DIM, seed), encoder=encoder)
    return build(root / "index", catalogue(COUNT), {IMAGE: vectors}, shards=shards, serve=False)


class Replica:
    """A running replica, and calls to it."""

    def __init__(self, channel: grpc.aio.Channel, shard: RunningShard, served: str) -> None:
        self.stub = index_pb2_grpc.IndexShardStub(channel)
        self.shard = shard
        self.version = served

    async def describe(self) -> DescribeResponse:
        return await self.stub.Describe(DescribeRequest(), wait_for_ready=True, timeout=30)

    async def sequence(self) -> int:
        return (await self.describe()).versions[0].sequence

    async def apply(self, *updates: Update) -> Sequence[UpdateResult]:
        return (await self.stub.Apply(ApplyRequest(version=self.version, updates=updates))).results

    async def content(self, *, vectors: bool = True) -> list[bytes]:
        """Every product, with its description and its vectors."""
        listing = self.stub.List(ShardListRequest(version=self.version))
        ids = [each async for page in listing for each in page.ids]
        request = FetchRequest(version=self.version, ids=ids, vectors=[IMAGE] * vectors, descriptions=True)
        return [each.SerializeToString() for each in (await self.stub.Fetch(request)).products]

    async def hits(self) -> bytes:
        query = ShardQuery(vectors=[query_vector(IMAGE, unit_vectors(1, DIM, 99)[0])], k=20)
        return (await self.stub.Search(ShardSearchRequest(version=self.version, queries=[query]))).SerializeToString()

    async def is_in_service(self) -> bool:
        return not (await self.describe()).catching_up


@asynccontextmanager
async def a_replica(
    root: Path, number: int, ports: Sequence[int], *, serves: str = "", wait_s: float = ALONE_S, shard_number: int = 0
) -> AsyncIterator[Replica]:
    """Replica `number` of a shard of ROOT/index; its peers are those at all of the ports, itself among them."""
    settings = ShardSettings(
        location=str(root / "index"),
        version=serves,
        live_dir=root / f"live{number}",
        poll_s=0.05,
        lease_s=0.2,
        threads=1,
        delta_rows=64,
    )
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    async with AsyncExitStack() as opened:
        (shard,) = opened.enter_context(open_shards(settings, [shard_number], peers=PeerSettings(addresses, wait_s)))
        await opened.enter_async_context(running(shard, settings.poll_s))
        await shard.rollout.start()
        server = edge.server([shard.service.handler()])
        server.add_insecure_port(addresses[number])
        await server.start()
        opened.push_async_callback(server.stop, None)
        channel = await opened.enter_async_context(aio_channel(addresses[number]))
        yield Replica(channel, shard, serves or version.read_current(root / "index"))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  # polled over gRPC
            await asyncio.sleep(0.02)


async def until_equal(one: Replica, other: Replica) -> None:
    async def equal() -> bool:
        return await one.content() == await other.content() and await one.hits() == await other.hits()

    await eventually(equal)


def upsert(product_id: str, revision: int) -> Update:
    vector = np.random.default_rng(revision).normal(size=DIM).astype("<f4").tobytes()
    product = Product(id=product_id, title=f"{product_id} at {revision}", description="more", category="home")
    return Update(revision=revision, upsert=Upsert(product=product, vectors=[SpaceVector(space=IMAGE, vector=vector)]))


def patch(product_id: str, revision: int) -> Update:
    product = Product(id=product_id, price=revision)
    return Update(revision=revision, patch=Patch(product=product, fields=["price"]))


def remove(product_id: str, revision: int) -> Update:
    return Update(revision=revision, remove=product_id)


EVERY_KIND = (upsert("new", 1), upsert("p1", 2), patch("p2", 3), patch("new", 4), remove("p3", 5), upsert("gone", 6))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    version.make_current(tmp_path / "index", build_version(tmp_path))
    return tmp_path


async def test_changes_of_every_kind_at_one_replica_arrive_at_the_other(root: Path) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports) as one, a_replica(root, 1, ports) as other:
        await eventually(one.is_in_service)
        await eventually(other.is_in_service)
        await one.apply(*EVERY_KIND)
        await one.apply(remove("gone", 7))
        await until_equal(one, other)
        await other.apply(patch("p4", 1), remove("new", 9))
        await until_equal(one, other)
        # Later updates win or lose as they would at the replica that was told first.
        assert [each.outcome for each in await other.apply(upsert("p3", 5), upsert("gone", 7), upsert("p1", 2))] == (
            [UpdateResult.STALE] * 3
        )


async def test_a_replica_says_how_far_it_has_the_changes_of_a_peer(root: Path) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports) as one, a_replica(root, 1, ports) as other:
        await eventually(one.is_in_service)
        await one.apply(*EVERY_KIND)
        name, sequence = (await one.describe()).replica, await one.sequence()

        async def has_all() -> bool:
            (position,) = (await other.describe()).peers  # Itself is none of its peers.
            return (position.replica, position.version, position.sequence) == (name, one.version, sequence)

        await eventually(has_all)
        assert await other.content() == await one.content()
        assert name != (await other.describe()).replica


async def test_processes_of_other_shards_are_no_peers_and_need_not_answer(root: Path) -> None:
    version.make_current(root / "index", build_version(root, shards=2))
    ports = probes.free_ports(2)
    async with a_replica(root, 1, ports, shard_number=1), a_replica(root, 0, ports, wait_s=3600) as one:
        await eventually(lambda: has_been_described(one, 2))
        assert (await one.describe()).catching_up  # No peer of its own has answered.
        assert not (await one.describe()).peers


async def has_been_described(replica: Replica, addresses: int) -> bool:
    """Whether it knows of so many addresses that they are itself or of other shards."""
    assert replica.shard.peers is not None
    others = [each for each in replica.shard.peers._peers.values() if not each.is_peer]
    return len(others) + len(replica.shard.peers._own_addresses) == addresses


async def test_a_replica_that_was_down_gets_what_it_missed_before_it_is_in_service(root: Path) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 1, ports) as other:
        await eventually(other.is_in_service)
        await other.apply(upsert("before", 1))
    pulled = REGISTRY.get_sample_value("lookalike_shard_peer_changes_total") or 0
    async with a_replica(root, 0, ports) as one:
        await eventually(one.is_in_service)
        await one.apply(*EVERY_KIND)
        # More than fit into the delta at once: compactions run on both sides.
        for first in range(0, 180, 30):
            updates = [upsert(f"n{i}", i + 10) for i in range(first, first + 30)]
            while any(each.outcome == UpdateResult.FULL for each in await one.apply(*updates)):  # noqa: ASYNC110  # until a compaction has made room
                await asyncio.sleep(0.05)
        async with a_replica(root, 1, ports) as other:
            await eventually(other.is_in_service)
            lacking = {*await one.content()} - {*await other.content()}
            assert lacking == set()
            await until_equal(one, other)  # The first one took `before` from it.
            assert (await one.stub.Fetch(FetchRequest(version=one.version, ids=["before"]))).products[0].product
    assert (REGISTRY.get_sample_value("lookalike_shard_peer_changes_total") or 0) > pulled + 180


async def test_an_empty_replica_gets_everything(root: Path) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports) as one:
        await eventually(one.is_in_service)
        await one.apply(*EVERY_KIND)
        async with a_replica(root, 1, ports) as other:
            await eventually(other.is_in_service)
            assert await other.content() == await one.content()


async def test_while_it_catches_up_a_replica_makes_no_change_in_part(
    root: Path,
) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports, wait_s=3600) as one:
        with pytest.raises(grpc.aio.AioRpcError, match="catching up") as refused:
            await one.apply(patch("p1", 1))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        (result,) = await one.apply(upsert("p1", 2))
        assert result.outcome == UpdateResult.APPLIED
        assert (await one.describe()).catching_up


async def test_a_peer_that_hangs_holds_up_no_changes_of_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # It accepts connections, and never answers.
        ports = [*probes.free_ports(2), hanging.getsockname()[1]]
        async with a_replica(root, 0, ports) as one, a_replica(root, 1, ports) as other:
            await eventually(one.is_in_service)
            await eventually(other.is_in_service)
            await one.apply(*EVERY_KIND)
            await until_equal(one, other)


@pytest.mark.parametrize("encoder", ["drawn", "another"])
async def test_changes_flow_between_replicas_of_which_one_has_moved_to_another_version(
    root: Path, encoder: str
) -> None:
    old, new = version.read_current(root / "index"), build_version(root, 1, encoder)
    ports = probes.free_ports(2)
    with_vectors = encoder == "drawn"
    async with a_replica(root, 0, ports, serves=old) as one, a_replica(root, 1, ports, serves=new) as other:
        for each in (one, other):
            await eventually(each.is_in_service)
        await one.apply(upsert("p1", 2), remove("p3", 5), patch("p5", 1))
        await other.apply(upsert("p2", 2), remove("p4", 5))

        async def flowed() -> bool:
            replies = [await each.stub.Fetch(FetchRequest(version=each.version, ids=CHANGED)) for each in (one, other)]
            revisions = [[Product.FromString(each.product).revision for each in reply.products] for reply in replies]
            return revisions == [[2, 2, 0, 0, 1]] * 2

        await eventually(flowed)
        request = FetchRequest(ids=["p1"], vectors=[IMAGE])
        vectors = []
        for each in (one, other):
            request.version = each.version
            vectors.append((await each.stub.Fetch(request)).products[0].vectors[0].vector)
        assert (vectors[0] == vectors[1]) == with_vectors


async def test_a_replica_that_was_stopped_is_behind_until_it_has_pulled_again(root: Path) -> None:
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports) as one:
        await eventually(one.is_in_service)
        assert one.shard.peers is not None
        one.shard.peers._clock = lambda: asyncio.get_running_loop().time() + 2 * LATE_S  # As after SIGSTOP.
        assert (await one.describe()).catching_up
        await eventually(one.is_in_service)


async def test_a_revision_and_the_product_are_of_one_state_while_it_changes(root: Path) -> None:
    """What is listed during a write has not the new revision and the product as it was before."""
    ports = probes.free_ports(2)
    async with a_replica(root, 0, ports) as one, a_replica(root, 1, ports) as other:
        await eventually(one.is_in_service)
        for revision in range(1, 150):
            await one.apply(upsert("busy", revision))
            await asyncio.sleep(0.005)
        await until_equal(one, other)
