"""Ordinary, deep and exact searches do not wait for each other: real shards, alone and behind a real gateway."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from index.building.build import IndexOptions, build
from index.search.queries import parse_query
from index.serving.caller import Caller
from index.serving.exact_searches import ExactSearches
from index.serving.service import IndexShard
from index.serving.shard_version import ShardVersion, open_shard
from index.serving.slots import Slots
from index.serving.versions import ShardVersions
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.errors import Overloaded, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.status import to_error
from lookalike.v1 import index_pb2_grpc, search_pb2_grpc
from lookalike.v1.index_pb2 import ShardHits, ShardQuery, ShardSearchRequest
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Filter
from lookalike.vectors import pack
from node.local_shard import LocalShard
from tests.rpc.gateways import running_gateway, serving
from tests.unit.index.samples import IMAGE, catalogue, clustered, query_vector, serving_only, vectors_of

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub  # In the stubs' types only.
    from lookalike.v1.search_pb2_grpc import SimilarProductsAsyncStub

COUNT, DIM = 6000, 32
VECTORS = clustered(COUNT, DIM)
BLOCKS = 10
# An ordinary search of this index compares with less, an exact one with three times as much.
ORDINARY_COMPONENTS = COUNT * DIM // 3
MAX_COSTLY = 8
NEVER = Deadline.after(None)
SECONDS = 60.0  # A deadline that no test reaches: they wait for what is to happen.


class Gate:
    """Holds the thread of the exact searches before each block, while it is closed."""

    def __init__(self) -> None:
        self.blocks = 0
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def close(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(SECONDS)
        self.blocks += 1


class System(NamedTuple):
    """A shard, and a gateway before it."""

    gate: Gate
    slots: Slots
    served: ShardVersions
    version: ShardVersion
    shard: IndexShardAsyncStub
    gateway: SimilarProductsAsyncStub

    def in_progress(self) -> float:
        return REGISTRY.get_sample_value("lookalike_shard_costly_searches", {"class": "exact"}) or 0.0

    async def answer(self, *queries: ShardQuery, ordinary_only: bool = False) -> list[ShardHits]:
        request = ShardSearchRequest(
            version=self.version.manifest.version, queries=queries, ordinary_only=ordinary_only
        )
        results = list((await self.shard.Search(request, timeout=SECONDS)).results)
        for hits in results:
            hits.ClearField("cpu_s")  # Measured: no two are equal.
        return results

    def expected(self, *queries: ShardQuery) -> list[ShardHits]:
        """The answers of searches one by one, however much work they are."""
        return list(self.version.search(queries).results)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    location = tmp_path_factory.mktemp("index")
    build(location, catalogue(COUNT), {IMAGE: vectors_of(VECTORS)}, shards=1, options=IndexOptions(recipe="HNSW16"))
    return open_shard(location, 0)


@asynccontextmanager
async def running(
    version: ShardVersion,
    *,
    in_process: bool = False,
    clock: Callable[[], float] = time.monotonic,
    **settings: float,
) -> AsyncIterator[System]:
    """in_process: the gateway reaches the shard as a node does; settings: of the gateway."""
    gate = Gate()
    exact = ExactSearches(
        max_searches=MAX_COSTLY, block_bytes=COUNT * DIM * 4 // BLOCKS, before_block=gate, clock=clock
    )
    slots = Slots(threads=1, max_waiting=64, max_costly=MAX_COSTLY, exact=exact)
    served = serving_only(version)
    service = IndexShard(slots, served, Writer(served, max_waiting=8), ordinary_components=ORDINARY_COMPONENTS)
    transports = [LocalShard(0, service)] if in_process else None
    async with (
        serving(service.handler()) as address,
        running_gateway({"shards": (address,), "refresh_s": 0.05, **settings}, transports) as gateway,
        aio_channel(address) as channel,
        aio_channel(gateway) as gateway_channel,
    ):
        shard, search = index_pb2_grpc.IndexShardStub(channel), search_pb2_grpc.SimilarProductsStub(gateway_channel)
        yield System(gate, slots, served, version, shard, search)
        gate.open()
    slots.close()


@pytest_asyncio.fixture(params=[False, True], ids=["over gRPC", "in process"])
async def system(request: pytest.FixtureRequest, version: ShardVersion) -> AsyncIterator[System]:
    async with running(version, in_process=request.param, shard_timeout_s=30.0) as each:
        yield each


def ordinary(row: int = 0) -> ShardQuery:
    return ShardQuery(vectors=[query_vector(IMAGE, VECTORS[row])], k=10, explain=True)


def exact(row: int = 0, k: int = 10, **fields: object) -> ShardQuery:
    vectors = [query_vector(IMAGE, VECTORS[row])]
    return ShardQuery(vectors=vectors, k=k, exact=True, explain=True, **fields)  # type: ignore[arg-type]


def deep(row: int = 0) -> ShardQuery:
    return ShardQuery(vectors=[query_vector(IMAGE, VECTORS[row])], k=2500, explain=True)


def request(row: int = 0, **fields: object) -> SearchRequest:
    example = Example(vector=pack(VECTORS[row]))
    return SearchRequest(examples=[example], space=SPACE_IMAGE, limit=10, **fields)  # type: ignore[arg-type]


async def reached(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.reached.wait, SECONDS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # Threads change it, which no asyncio.Event follows.
            await asyncio.sleep(0.001)


@pytest.fixture
def holding_deep(system: System) -> Iterator[None]:
    """All threads of deep searches are busy."""
    free = threading.Event()
    system.slots.deep.submit(lambda _: free.wait(SECONDS), Caller(NEVER))
    yield
    free.set()


EVERY_KIND = [
    exact(1),
    exact(2, filter=Filter(in_stock=True), max_per_shop=3),
    exact(3, k=100, exclude_ids=["p3", "p4"]),
    exact(4, k=3, min_score=0.5),
    deep(5),
    ordinary(6),
]


async def test_a_batch_of_every_class_is_answered_as_its_queries_are_one_by_one(system: System) -> None:
    assert await system.answer(*EVERY_KIND) == system.expected(*EVERY_KIND)
    assert system.gate.blocks == BLOCKS  # Of the shared scan, for four exact queries.


async def test_with_ordinary_only_costly_queries_are_named_and_not_answered(system: System) -> None:
    *costly, answered = await system.answer(*EVERY_KIND, ordinary_only=True)
    assert costly == [ShardHits(costly=True)] * len(costly)
    assert answered == system.expected(EVERY_KIND[-1])[0]
    assert system.gate.blocks == 0


async def test_an_exact_query_whose_filter_passes_few_is_ordinary(system: System) -> None:
    query = exact(1, filter=Filter(category_in=["home"], shop_in=["shop 1"], in_stock=True))
    assert await system.answer(query, ordinary_only=True) == system.expected(query)


@pytest.mark.usefixtures("holding_deep")
async def test_while_exact_and_deep_searches_are_held_ordinary_ones_are_answered(system: System) -> None:
    system.gate.close()
    exact_calls = [
        asyncio.ensure_future(system.gateway.Search(request(i, exact=True), timeout=SECONDS)) for i in range(4)
    ]
    deep_call = asyncio.ensure_future(system.answer(deep()))
    await reached(system.gate)
    responses = await asyncio.gather(*(system.gateway.Search(request(i), timeout=SECONDS) for i in range(40)))
    assert all(len(response.hits) == 10 and response.provenance.coverage == 1 for response in responses)
    assert not any(call.done() for call in (*exact_calls, deep_call))
    system.gate.open()
    for i, response in enumerate(await asyncio.gather(*exact_calls)):
        assert [hit.product.id for hit in response.hits] == system.expected(exact(i))[0].ids


async def test_while_deep_searches_are_held_exact_ones_are_answered_and_the_reverse(
    system: System, holding_deep: None
) -> None:
    waiting = asyncio.ensure_future(system.answer(deep()))
    assert await system.answer(exact()) == system.expected(exact())
    assert not waiting.done()
    waiting.cancel()


async def test_deep_searches_are_answered_while_exact_ones_are_held(system: System) -> None:
    system.gate.close()
    waiting = asyncio.ensure_future(system.answer(exact()))
    await reached(system.gate)
    assert await system.answer(deep()) == system.expected(deep())
    assert not waiting.done()
    system.gate.open()
    await waiting


async def test_a_search_of_several_seconds_is_waited_for_beyond_the_shards_time_out(version: ShardVersion) -> None:
    """`shard_timeout_s` bounds what a shard may take for an ordinary query, and not a search known to be long."""
    async with running(version, shard_timeout_s=0.2) as system:
        system.gate.close()
        call = asyncio.ensure_future(system.gateway.Search(request(exact=True), timeout=SECONDS))
        await reached(system.gate)
        await asyncio.sleep(0.5)
        system.gate.open()
        assert (await call).provenance.exact


async def test_an_exact_search_whose_caller_gave_up_is_scanned_no_further(system: System) -> None:
    system.gate.close()
    call = system.gateway.Search(request(exact=True), timeout=SECONDS)
    waiting = asyncio.ensure_future(call)
    await reached(system.gate)
    waiting.cancel()
    name = system.version.manifest.version
    await until(lambda: system.served.uses()[name].calls == 1)  # The handler has ended; the thread has not.
    system.gate.open()
    await until(lambda: not system.in_progress())
    assert system.gate.blocks == 1  # The one that was held.


async def test_an_exact_search_ends_at_its_deadline_and_leaves_its_place(system: System) -> None:
    system.gate.close()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await system.gateway.Search(request(exact=True), timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    system.gate.open()
    await until(lambda: not system.in_progress())
    assert system.gate.blocks <= 1


async def test_a_version_is_in_use_until_no_thread_scans_it_any_more(system: System) -> None:
    name = system.version.manifest.version
    system.gate.close()
    waiting = asyncio.ensure_future(system.answer(exact()))
    await reached(system.gate)
    waiting.cancel()
    await until(lambda: system.served.uses()[name].calls == 1)  # The handler has ended; the thread has not.
    system.gate.open()
    await until(lambda: system.served.uses()[name].calls == 0)


async def test_beyond_the_limit_exact_searches_are_refused_at_once_with_a_delay_and_later_ones_are_answered(
    system: System,
) -> None:
    system.gate.close()
    calls = [
        asyncio.ensure_future(system.gateway.Search(request(i, exact=True), timeout=SECONDS)) for i in range(MAX_COSTLY)
    ]
    await until(lambda: system.in_progress() == MAX_COSTLY)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await system.gateway.Search(request(MAX_COSTLY, exact=True), timeout=SECONDS)
    error = to_error(raised.value)
    assert isinstance(error, Overloaded)
    assert error.retry_after_s >= 0.1
    system.gate.open()
    responses = await asyncio.gather(*calls)
    assert [response.hits[0].product.id for response in responses] == [f"p{i}" for i in range(MAX_COSTLY)]
    await system.gateway.Search(request(MAX_COSTLY, exact=True), timeout=SECONDS)


@pytest.mark.parametrize("in_process", [False, True])
async def test_an_exact_search_that_would_be_late_is_refused_at_once_with_the_estimate(
    version: ShardVersion, in_process: bool
) -> None:
    seconds = iter(range(0, 100_000, 5))  # Every block and its pause take ten seconds.
    async with running(version, in_process=in_process, clock=lambda: next(seconds)) as system:
        await system.answer(exact(0))  # A hundred seconds, as the clock says.
        system.gate.close()
        waiting = asyncio.ensure_future(system.shard.Search(a_request(system, exact(1)), timeout=10 * SECONDS))
        await reached(system.gate)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await system.gateway.Search(request(2, exact=True), timeout=SECONDS)
        error = to_error(raised.value)
        assert isinstance(error, Overloaded)
        assert error.retry_after_s > SECONDS
        assert f"an exact search of {COUNT} vectors takes about 1e+02 s" in str(error)
        system.gate.open()
        await waiting
        # With nothing in progress the measurement may be old: one is admitted, and measures again.
        assert await system.answer(exact(3)) == system.expected(exact(3))


async def test_exact_searches_end_when_the_shard_stops(version: ShardVersion) -> None:
    async with running(version) as system:
        system.gate.close()
        waiting = asyncio.ensure_future(system.answer(exact()))
        await reached(system.gate)
        closing = asyncio.create_task(asyncio.to_thread(system.slots.exact.close))
        await until(lambda: refuses_as_stopping(system))
        system.gate.open()
        await closing
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await waiting
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def refuses_as_stopping(system: System) -> bool:
    nobody = Caller(NEVER)
    nobody.gave_up = True
    try:
        system.slots.exact.submit(system.version.view, parse_query(exact(), {IMAGE: DIM}), nobody)
    except Unavailable:
        return True
    except Overloaded:
        pass
    return False


def a_request(system: System, *queries: ShardQuery) -> ShardSearchRequest:
    return ShardSearchRequest(version=system.version.manifest.version, queries=queries)
