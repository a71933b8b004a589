"""The service IndexShard over gRPC."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from index.building.build import SpaceVectors, build
from index.search.queries import MAX_K
from index.serving import shard, shard_search
from index.serving.pool import Pool
from index.serving.service import MAX_QUERIES, IndexShard
from index.serving.settings import ShardSettings, check_peers, shard_number
from index.serving.shard_version import ShardVersion, open_shard
from index.serving.slots import Slots
from index.serving.versions import ShardVersions, shard_versions
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.errors import BadArtifact, BadSettings, DeadlineExceeded, Overloaded
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.settings import load
from lookalike.v1 import index_pb2, index_pb2_grpc
from lookalike.v1.types_pb2 import Filter, Product
from lookalike.vectors import unpack
from tests.unit.index.samples import (
    IMAGE,
    PRODUCT,
    TEXT,
    catalogue,
    clustered,
    query_vector,
    serving_only,
    unit_vectors,
    vectors_of,
)

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.

COUNT = 1200
NEVER = Deadline.after(None)
VECTORS = clustered(COUNT, 16)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("index")
    spaces: dict[int, SpaceVectors] = {
        IMAGE: vectors_of(VECTORS),
        TEXT: vectors_of(unit_vectors(10, 4), np.arange(10) * 3),
    }
    build(where, catalogue(COUNT), spaces, shards=1)
    return where


@pytest.fixture(scope="module")
def served(location: Path) -> ShardVersion:
    return open_shard(location, 0)


def a_service(slots: Slots, served: ShardVersions) -> IndexShard:
    return IndexShard(slots, served, Writer(served, max_waiting=8))


async def start_server(service: IndexShard) -> tuple[grpc.aio.Server, grpc.aio.Channel]:
    server = edge.server([service.handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, aio_channel(f"127.0.0.1:{port}")


@pytest_asyncio.fixture
async def stub(served: ShardVersion) -> AsyncIterator[Stub]:
    slots = Slots(threads=2, max_waiting=8)
    server, channel = await start_server(a_service(slots, serving_only(served)))
    async with channel:
        yield index_pb2_grpc.IndexShardStub(channel)
    await server.stop(None)
    slots.close()


@pytest.fixture
def version(served: ShardVersion) -> str:
    return served.manifest.version


def a_query(row: int = 0, *vectors: index_pb2.QueryVector, k: int = 5, **fields: Any) -> index_pb2.ShardQuery:
    """A query by these vectors, or by the image of the product of that row."""
    return index_pb2.ShardQuery(vectors=vectors or [query_vector(IMAGE, VECTORS[row])], k=k, **fields)


async def test_a_shard_describes_its_version_and_spaces(stub: Stub, version: str) -> None:
    (state,) = (await stub.Describe(index_pb2.DescribeRequest())).versions
    assert (state.version, state.shard, state.shards, state.documents) == (version, 0, 1, COUNT)
    assert [(space.space, space.dim, space.encoder, list(space.documents)) for space in state.spaces] == [
        (IMAGE, 16, "drawn", [COUNT]),
        (TEXT, 4, "drawn", [10]),
    ]


async def test_a_hit_carries_its_product_without_the_description(stub: Stub, version: str) -> None:
    request = index_pb2.ShardSearchRequest(version=version, queries=[a_query(7, exact=True)])
    (hits,) = (await stub.Search(request)).results
    assert hits.ids[0] == "p7"
    scores = unpack(hits.scores, 5)[0]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert (np.diff(scores) <= 0).all()
    product = Product.FromString(hits.products[0])
    assert (product.id, product.title, product.description, product.price) == ("p7", "title of 7", "", 7.0)
    assert [Product.FromString(data).id for data in hits.products] == list(hits.ids)


async def test_results_of_a_batch_are_in_the_order_of_its_queries(stub: Stub, version: str) -> None:
    text = unit_vectors(10, 4)
    queries = [
        a_query(3),
        a_query(4, k=2, filter=Filter(shop_in=["shop 1"])),
        a_query(5, exact=True, k=1),
        a_query(0, query_vector(TEXT, text[2]), k=1),
        a_query(6),
        a_query(8, k=0),
        a_query(9, query_vector(IMAGE, VECTORS[9], 3), query_vector(TEXT, text[3], 1), k=1, explain=True),
    ]
    batch = await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=queries))
    assert [list(hits.ids[:1]) for hits in batch.results] == [["p3"], ["p4"], ["p5"], ["p6"], ["p6"], [], ["p9"]]
    alone = [await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=[query])) for query in queries]
    assert [hits for one in alone for hits in one.results] == list(batch.results)


async def test_the_response_to_an_explained_query_has_its_search_plan(stub: Stub, version: str) -> None:
    queries = [
        a_query(1, explain=True, filter=Filter(in_stock=True)),
        a_query(1, explain=True, filter=Filter(max_price=4, in_stock=True)),
        a_query(1, explain=True, exact=True),
        a_query(1, query_vector(TEXT, unit_vectors(1, 4)[0]), explain=True),
        a_query(1),
    ]
    results = (await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=queries))).results
    plans = [[(each.space, each.documents, each.matching, each.recipe) for each in hits.plans] for hits in results]
    assert plans == [
        [(IMAGE, COUNT, COUNT * 3 // 4, "")],
        [(IMAGE, COUNT, sum(row % 50 <= 4 and row % 4 > 0 for row in range(COUNT)), "")],
        [(IMAGE, COUNT, COUNT, "")],
        [(TEXT, 10, 10, "")],
        [],
    ]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (a_query(0, query_vector(PRODUCT, VECTORS[0])), "this shard has no space 3"),
        (a_query(0, query_vector(0, VECTORS[0])), "this shard has no space 0"),
        (a_query(0, query_vector(IMAGE, b"")), "the vector has 0 bytes, expected 64 (16 dimensions)"),
        (a_query(0, query_vector(IMAGE, b"\0" * 60)), "the vector has 60 bytes"),
        (a_query(0, query_vector(IMAGE, b"\0" * 128)), "the vector has 128 bytes"),
        (a_query(0, query_vector(IMAGE, b"\0" * 64)), "not of unit norm"),
        (a_query(0, query_vector(IMAGE, np.full(16, np.nan, np.float32))), "not of unit norm"),
        (a_query(0, query_vector(IMAGE, np.full(16, np.inf, np.float32))), "not of unit norm"),
        (a_query(0, query_vector(IMAGE, np.ones(16, np.float32))), "not of unit norm"),
        (a_query(k=MAX_K + 1), "k (4097) plus the number of exclude_ids (0) is over 4096"),
        (a_query(k=MAX_K, exclude_ids=["p"]), "k (4096) plus the number of exclude_ids (1) is over 4096"),
        (a_query(min_score=float("nan")), "min_score is not a number"),
    ],
)
async def test_an_invalid_query_gets_an_error_of_its_own(
    stub: Stub, version: str, query: index_pb2.ShardQuery, reason: str
) -> None:
    request = index_pb2.ShardSearchRequest(version=version, queries=[a_query(1), query, a_query(2)])
    first, wrong, last = (await stub.Search(request)).results
    assert reason in wrong.error
    assert not wrong.ids
    assert (first.ids[0], first.error, last.ids[0], last.error) == ("p1", "", "p2", "")


async def test_beyond_the_response_size_only_queries_without_room_fail(
    stub: Stub, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_search, "MAX_RESPONSE_BYTES", 1000)
    queries = [a_query(1), a_query(2, k=100), a_query(3, k=1)]
    results = (await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=queries))).results
    assert [bool(hits.error) for hits in results] == [False, True, False]


async def code_of(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


@pytest.mark.parametrize("other", ["", "another"])
async def test_a_request_for_another_version_is_refused(stub: Stub, other: str) -> None:
    refused = grpc.StatusCode.FAILED_PRECONDITION
    assert await code_of(stub.Search(index_pb2.ShardSearchRequest(version=other))) is refused
    assert await code_of(stub.Fetch(index_pb2.FetchRequest(version=other))) is refused
    assert await code_of(stub.Count(index_pb2.ShardCountRequest(version=other))) is refused
    with pytest.raises(grpc.aio.AioRpcError, match="this shard serves version"):
        await stub.List(index_pb2.ShardListRequest(version=other)).read()


async def test_products_are_fetched_in_the_order_of_the_ids_with_the_requested_fields(stub: Stub, version: str) -> None:
    request = index_pb2.FetchRequest(version=version, ids=["p9", "none", "p10"], vectors=[TEXT, IMAGE])
    both_vectors, missing, only_image = (await stub.Fetch(request)).products
    assert not missing.HasField("product")
    product = Product.FromString(both_vectors.product)
    assert (product.id, product.description) == ("p9", "")
    assert [vector.space for vector in both_vectors.vectors] == [TEXT, IMAGE]
    assert np.allclose(unpack(both_vectors.vectors[1].vector, 16)[0], VECTORS[9], atol=1e-6)
    assert [vector.space for vector in only_image.vectors] == [IMAGE]
    (described,) = (await stub.Fetch(index_pb2.FetchRequest(version=version, ids=["p9"], descriptions=True))).products
    described_product = Product.FromString(described.product)
    assert (described_product.id, described_product.description) == ("p9", "description of 9")
    assert not described.vectors


async def test_counting_and_listing_agree(stub: Stub, version: str) -> None:
    condition = Filter(category_in=["fashion"], in_stock=True)
    counted = await stub.Count(index_pb2.ShardCountRequest(version=version, filter=condition))
    pages = [page async for page in stub.List(index_pb2.ShardListRequest(version=version, filter=condition))]
    ids = [product_id for page in pages for product_id in page.ids]
    assert len(ids) == counted.count == COUNT * 2 // 5 * 3 // 4
    assert ids == sorted(ids)
    assert [Product.FromString(data).id for page in pages for data in page.products] == ids


async def test_all_products_are_listed_in_pages_of_at_most_500(stub: Stub, version: str) -> None:
    pages = [page async for page in stub.List(index_pb2.ShardListRequest(version=version))]
    assert [len(page.ids) for page in pages] == [500, 500, 200]


async def test_a_list_can_continue_after_an_id_that_does_not_exist(stub: Stub, version: str) -> None:
    request = index_pb2.ShardListRequest(version=version, after="p995x", filter=Filter(shop_in=["shop 0"]))
    (page,) = [page async for page in stub.List(request)]
    assert list(page.ids) == ["p996", "p999"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda stub, version: stub.Fetch(index_pb2.FetchRequest(version=version, ids=["x"] * 1001)),
        lambda stub, version: stub.Fetch(index_pb2.FetchRequest(version=version, ids=["x"] * 257, descriptions=True)),
        lambda stub, version: stub.Search(
            index_pb2.ShardSearchRequest(version=version, queries=[a_query()] * (MAX_QUERIES + 1))
        ),
    ],
)
async def test_a_request_for_more_than_fits_into_a_response_is_refused(
    stub: Stub, version: str, ask: Callable[[Stub, str], Awaitable[object]]
) -> None:
    assert await code_of(ask(stub, version)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_shard_that_is_still_loading_is_unavailable() -> None:
    slots = Slots(threads=1, max_waiting=1)
    server, channel = await start_server(a_service(slots, shard_versions(time.monotonic, lease_s=30)))
    async with channel:
        call = index_pb2_grpc.IndexShardStub(channel).Describe(index_pb2.DescribeRequest())
        assert await code_of(call) is grpc.StatusCode.UNAVAILABLE
    await server.stop(None)
    slots.close()


async def test_a_full_pool_refuses_at_once_and_recovers() -> None:
    pool, gate = Pool(threads=1, max_waiting=2), threading.Event()
    calls = [asyncio.wrap_future(pool.submit(gate.wait, NEVER)) for _ in range(3)]
    with pytest.raises(Overloaded):
        pool.submit(gate.wait, NEVER)
    gate.set()
    assert await asyncio.gather(*calls) == [True] * 3
    assert await asyncio.wrap_future(pool.submit(lambda: 7, NEVER)) == 7
    pool.close()


async def test_work_whose_deadline_passed_in_the_queue_is_not_begun() -> None:
    pool, gate, begun = Pool(threads=1, max_waiting=2), threading.Event(), []
    holding = asyncio.wrap_future(pool.submit(gate.wait, NEVER))
    late = asyncio.wrap_future(pool.submit(lambda: begun.append(1), Deadline.after(0.01)))
    await asyncio.sleep(0.03)
    gate.set()
    await holding
    with pytest.raises(DeadlineExceeded):
        await late
    assert not begun
    pool.close()


async def test_a_cancelled_call_holds_its_slot_until_the_thread_has_finished() -> None:
    pool, begun, gate = Pool(threads=1, max_waiting=0), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait()

    call = asyncio.wrap_future(pool.submit(work, NEVER))
    assert await asyncio.to_thread(begun.wait, 10)
    call.cancel()
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        pool.submit(gate.wait, NEVER)
    gate.set()
    pool.close()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shard", "3"], 3),
        (["--pod-name", "lookalike-shard-12"], 12),
        (["--pod-name", "7"], 7),
        (["--shard", "0", "--pod-name", "x-5"], 0),
        (["--shards", "3", "--pod-name", "shard-2"], 2),
        (["--shards", "3", "--pod-name", "shard-5"], 2),
    ],
)
def test_the_shard_number_is_that_of_the_setting_or_of_the_pod_name(words: list[str], expected: int) -> None:
    assert shard_number(load(ShardSettings, {}, words, description="")) == expected


@pytest.mark.parametrize("words", [[], ["--pod-name", "lookalike-shard"], ["--pod-name", "shard12"]])
def test_without_a_shard_number_a_shard_does_not_start(words: list[str]) -> None:
    with pytest.raises(BadSettings, match="--shard"):
        shard_number(load(ShardSettings, {}, words, description=""))


def test_peers_need_a_live_directory_and_ports() -> None:
    for words, problem in (
        (["--peers", "a:1"], "needs --live-dir"),
        (["--live-dir", "x", "--peers", "a:1,b"], "'b' is not host:port"),
    ):
        with pytest.raises(BadSettings, match=problem):
            check_peers(load(ShardSettings, {}, words, description=""))
    check_peers(load(ShardSettings, {}, ["--live-dir", "x", "--peers", "a:1,[::1]:2"], description=""))


def test_without_a_location_a_shard_does_not_start() -> None:
    with pytest.raises(BadSettings, match="--location"):
        shard.main(["--shard", "0"], {})


def test_a_shard_of_a_damaged_index_stops_with_the_name_of_the_file(tmp_path: Path) -> None:
    build(tmp_path, catalogue(3), {}, shards=1)
    (file,) = tmp_path.rglob("attributes.arrow")
    file.write_bytes(b"")
    with pytest.raises(BadArtifact, match=r"attributes\.arrow: has 0 bytes"):
        shard.main(["--shard", "0", "--location", str(tmp_path)], {})
