"""A shard answers and fails in the same way over gRPC and in this process: one suite for both transports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from index.live.live_shard import LiveShard
from index.search.queries import parse_query
from index.serving.service import MAX_QUERIES, IndexShard
from index.serving.shard_version import ShardVersion
from index.serving.slots import Slots
from index.serving.versions import ShardVersions, handle_of, shard_versions
from index.serving.writer import MAX_UPDATES, Writer
from lookalike.errors import FailedPrecondition, InternalError, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.partition import product_hash
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import UpdateResult
from lookalike.v1.types_pb2 import Filter, Product
from node.local_shard import LocalShard
from server.replicated_shard import ReplicatedShard
from server.settings import GatewaySettings
from server.shard_transport import ShardTransport
from tests.rpc.gateways import serving
from tests.unit.index.live_samples import COUNT, build_version, open_live, remove, upsert
from tests.unit.index.samples import IMAGE, TEXT, query_vector, serving_only, unit_vectors

NEVER = Deadline.after(None)
SECONDS = 60.0  # A time-out that no test reaches: they wait for what is to happen.
SOON = 0.05
VECTORS, TEXTS = unit_vectors(COUNT, 8), unit_vectors(COUNT // 2, 4)  # Every other product has a text.


def a_query(row: int = 0, **fields: Any) -> ShardQuery:
    message = index_pb2.ShardQuery(**{"vectors": [query_vector(IMAGE, VECTORS[row])], "k": 5, **fields})
    return parse_query(message, {IMAGE: 8, TEXT: 4})


QUERIES = [
    a_query(3),
    a_query(4, k=2, filter=Filter(shop_in=["shop 1"])),
    a_query(5, exact=True, k=1),
    a_query(7, vectors=[query_vector(TEXT, TEXTS[2])], k=1, explain=True),
    a_query(8, k=0),
    a_query(9, max_per_shop=1, exclude_ids=["p9"]),
    a_query(9, vectors=[query_vector(IMAGE, VECTORS[9], 3), query_vector(TEXT, TEXTS[3], 1)]),
]


@pytest.fixture(params=["remote", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    return build_version(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    """Another version of the same products."""
    return build_version(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture
def version(shard: ShardVersion) -> str:
    return shard.manifest.version


@dataclass
class Scene:
    """One shard, how it is reached, and what the shard's own process sees."""

    transport: ShardTransport
    slots: Slots
    served: ShardVersions

    async def search(
        self, version: str, *queries: ShardQuery, timeout_s: float = SECONDS, ordinary_only: bool = False
    ) -> list[ShardHits]:
        """The hits, in a form that can be compared."""
        results = await self.transport.search(version, queries or [a_query()], timeout_s, ordinary_only=ordinary_only)
        return [
            hits._replace(
                ids=[*hits.ids],
                scores=hits.scores.tolist(),
                products=[*hits.products],
                shops=[*hits.shops],
                cosines=None if hits.cosines is None else hits.cosines.tolist(),
                plans=[*hits.plans],
            )
            for hits in results
        ]

    async def error_of(self, call: Awaitable[object]) -> tuple[type[LookalikeError], str]:
        """The type of the error, and its text without the name of the shard, which must begin it."""
        with pytest.raises(LookalikeError) as raised:
            await call
        named = f"shard {self.transport.address}"
        assert str(raised.value).startswith(named)
        return type(raised.value), str(raised.value).removeprefix(named)

    async def list(self, version: str, *, timeout_s: float | None = SECONDS) -> list[index_pb2.ShardListPage]:
        request = index_pb2.ShardListRequest(version=version)
        return [page async for page in self.transport.list(request, timeout_s)]

    def calls(self, version: str) -> int:
        return self.served.uses()[version].calls


@asynccontextmanager
async def a_scene(kind: str, served: ShardVersions) -> AsyncIterator[Scene]:
    """One search thread, and room for one call that waits for it."""
    slots, writer = Slots(threads=1, max_waiting=1), Writer(served, max_waiting=8)
    service = IndexShard(slots, served, writer)
    async with serving(service.handler()) as address:
        settings = GatewaySettings(shards=(address,))
        remote = ReplicatedShard(0, settings.shards, settings)
        transport: ShardTransport = remote if kind == "remote" else LocalShard(0, service)
        try:
            yield Scene(transport, slots, served)
        finally:
            await transport.close()
            slots.close()
            writer.close()


@pytest_asyncio.fixture
async def scene(kind: str, shard: ShardVersion) -> AsyncIterator[Scene]:
    async with a_scene(kind, serving_only(shard)) as scene:
        yield scene


@pytest.fixture
def live(shard: ShardVersion, tmp_path: Path) -> Iterator[LiveShard]:
    live = open_live(shard, tmp_path)
    yield live
    live.close()


@pytest_asyncio.fixture
async def live_scene(kind: str, shard: ShardVersion, live: LiveShard) -> AsyncIterator[Scene]:
    async with a_scene(kind, serving_only(shard.with_live(live))) as scene:
        yield scene


class Gate:
    """Holds the search thread of a scene until it is opened."""

    def __init__(self, scene: Scene) -> None:
        self._open = threading.Event()
        self.done = scene.slots.ordinary.submit(lambda: self._open.wait(SECONDS), NEVER)

    def open(self) -> None:
        self._open.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self.done.result(SECONDS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def has_room(scene: Scene) -> bool:
    """Whether a call could wait for the thread now; it waits for nothing."""
    try:
        scene.slots.ordinary.submit(lambda: None, NEVER).cancel()
    except Overloaded:
        return False
    return True


# Answers.


async def test_a_batch_has_the_hits_of_each_query_in_order(scene: Scene, version: str) -> None:
    results = await scene.search(version, *QUERIES)
    image = VECTORS @ VECTORS[9]
    fused = 3 * image
    fused[::2] += TEXTS @ TEXTS[3]
    other, late = (f"p{row}" for row in (np.argsort(-image)[1], np.argmax(fused)))
    assert [list(hits.ids[:1]) for hits in results] == [["p3"], ["p4"], ["p5"], ["p4"], [], [other], [late]]
    assert results == [hits for query in QUERIES for hits in await scene.search(version, query)]


async def test_both_transports_give_the_same_answers(shard: ShardVersion, version: str) -> None:
    async def answers(kind: str) -> list[object]:
        async with a_scene(kind, serving_only(shard)) as scene:
            request = index_pb2.FetchRequest(
                version=version, ids=["p4", "nothing", "p5"], descriptions=True, vectors=[IMAGE, TEXT]
            )
            counting = index_pb2.ShardCountRequest(version=version, filter=Filter(shop_in=["shop 1"]))
            listing = index_pb2.ShardListRequest(version=version, filter=Filter(in_stock=True), after="p2")
            described = await scene.transport.describe(index_pb2.DescribeRequest(), SECONDS)
            described.replica = ""  # Each process has its own, and several in one have none.
            return [
                await scene.search(version, *QUERIES),
                await scene.search(version, *QUERIES, ordinary_only=True),
                list(await scene.transport.fetch(request, SECONDS)),
                await scene.transport.count(counting, SECONDS),
                [page async for page in scene.transport.list(listing, None)],
                described,
            ]

    remote = await answers("remote")
    assert await answers("local") == remote
    assert all(remote)


async def test_products_are_fetched_in_order_and_missing_ones_are_empty(scene: Scene, version: str) -> None:
    request = index_pb2.FetchRequest(version=version, ids=["p4", "nothing", "p5"], vectors=[IMAGE, TEXT])
    fetched = await scene.transport.fetch(request, SECONDS)
    assert [Product.FromString(each.product).id for each in fetched] == ["p4", "", "p5"]
    assert [each.HasField("product") for each in fetched] == [True, False, True]
    assert [[vector.space for vector in each.vectors] for each in fetched] == [[IMAGE, TEXT], [], [IMAGE]]


async def test_counts_and_pages_hold_every_product_that_passes(scene: Scene, version: str) -> None:
    assert await scene.transport.count(index_pb2.ShardCountRequest(version=version), SECONDS) == COUNT
    ids = [product_id for page in await scene.list(version, timeout_s=None) for product_id in page.ids]
    assert ids == sorted(f"p{row}" for row in range(COUNT))


async def test_what_is_passed_in_is_not_changed(live_scene: Scene, version: str) -> None:
    transport = live_scene.transport
    queries, vectors = (
        [*QUERIES],
        [{space: vector.copy() for space, vector in each.vectors.items()} for each in QUERIES],
    )
    apply = index_pb2.ApplyRequest(version=version, updates=[upsert("new", 7), remove("p3", 1), upsert("", 1)])
    fetch = index_pb2.FetchRequest(version=version, ids=["p1"], vectors=[IMAGE])
    listing = index_pb2.ShardListRequest(version=version, filter=Filter(shop_in=["shop 1"]))
    counting = index_pb2.ShardCountRequest(version=version, filter=Filter(shop_in=["shop 1"]))
    describe = index_pb2.DescribeRequest(pinned=version)
    messages: list[Message] = [apply, fetch, listing, counting, describe]
    before = [message.SerializeToString(deterministic=True) for message in messages]
    await transport.apply(apply, SECONDS)
    await transport.search(version, queries, SECONDS, ordinary_only=False)
    await transport.fetch(fetch, SECONDS)
    await transport.count(counting, SECONDS)
    await transport.describe(describe, SECONDS)
    assert [page async for page in transport.list(listing, SECONDS)]
    assert [message.SerializeToString(deterministic=True) for message in messages] == before
    for query, unchanged in zip(queries, vectors, strict=True):
        np.testing.assert_equal(dict(query.vectors), unchanged)


async def test_an_answer_is_not_changed_by_later_updates(live_scene: Scene, version: str) -> None:
    request = index_pb2.FetchRequest(version=version, ids=["p3"], vectors=[IMAGE])
    fetched = list(await live_scene.transport.fetch(request, SECONDS))
    (hits,) = await live_scene.transport.search(version, [a_query(3)], SECONDS, ordinary_only=False)
    before = [each.SerializeToString(deterministic=True) for each in fetched]
    ids, scores, products = [*hits.ids], hits.scores.tolist(), [*hits.products]
    await live_scene.transport.apply(index_pb2.ApplyRequest(version=version, updates=[upsert("p3", 7)]), SECONDS)
    assert [each.SerializeToString(deterministic=True) for each in fetched] == before
    assert ([*hits.ids], hits.scores.tolist(), [*hits.products]) == (ids, scores, products)


# Live changes.


async def test_an_applied_update_is_in_the_next_search_and_counts_in_the_sequence(
    live_scene: Scene, version: str
) -> None:
    new = upsert("new", 7)
    request = index_pb2.ApplyRequest(version=version, updates=[new, remove("p3", 1), upsert("new", 7)])
    response = await live_scene.transport.apply(request, SECONDS)
    assert [result.outcome for result in response.results] == [
        UpdateResult.APPLIED,
        UpdateResult.APPLIED,
        UpdateResult.STALE,
    ]
    assert response.sequence == 2
    vector = np.frombuffer(new.upsert.vectors[0].vector, "<f4")
    query = a_query(vectors=[query_vector(IMAGE, vector / np.linalg.norm(vector))], k=1)
    (hits,) = await live_scene.search(version, query)
    assert list(hits.ids) == ["new"]
    (state,) = (await live_scene.transport.describe(index_pb2.DescribeRequest(), SECONDS)).versions
    assert (state.sequence, state.documents) == (2, COUNT)


async def test_a_description_has_the_updates_after_a_number_of_the_version_that_it_pins_or_else_of_the_current_one(
    live_scene: Scene, version: str, other: ShardVersion
) -> None:
    updates = [upsert("new", 7), remove("p3", 1), remove("new", 8)]
    await live_scene.transport.apply(index_pb2.ApplyRequest(version=version, updates=updates), SECONDS)

    async def described(pinned: str, known: int) -> dict[str, index_pb2.RecentChanges]:
        request = index_pb2.DescribeRequest(pinned=pinned, known_sequence=known)
        states = (await live_scene.transport.describe(request, SECONDS)).versions
        return {state.version: state.changes for state in states}

    new, p3 = product_hash(b"new"), product_hash(b"p3")
    kinds = bytes([index_pb2.CHANGE_KIND_UPSERT, *[index_pb2.CHANGE_KIND_REMOVAL] * 2])
    assert (await described("", 0))[version] == index_pb2.RecentChanges(products=[new, p3, new], kinds=kinds)
    assert (await described(version, 1))[version] == index_pb2.RecentChanges(products=[p3, new], kinds=kinds[1:])
    assert not (await described(version, 3))[version].products
    live_scene.served.add(handle_of(other))
    assert not (await described("", 0))[version].products
    assert len((await described(version, 0))[version].products) == 3


async def test_an_update_that_cannot_be_applied_is_an_outcome_and_the_others_are_applied(
    live_scene: Scene, version: str
) -> None:
    request = index_pb2.ApplyRequest(version=version, updates=[upsert("", 1), upsert("new", 7)])
    results = (await live_scene.transport.apply(request, SECONDS)).results
    assert [result.outcome for result in results] == [UpdateResult.INVALID, UpdateResult.APPLIED]


# The handover of changes. (The scene's shard has no migration of changes, as one without --live-dir.)


async def test_a_shard_that_keeps_no_changes_hands_none_over(scene: Scene, version: str) -> None:
    expected = FailedPrecondition, ": this shard takes no updates: it was started without --live-dir"
    listing = scene.transport.list_changes(index_pb2.ListChangesRequest(version=version), SECONDS)
    assert await scene.error_of(anext(listing)) == expected
    seal = scene.transport.seal(index_pb2.SealRequest(version=version, seconds=1), SECONDS)
    assert await scene.error_of(seal) == expected
    finish = scene.transport.finish_handover(index_pb2.FinishHandoverRequest(version=version), SECONDS)
    assert await scene.error_of(finish) == expected


# Versions.


async def test_a_version_of_a_rollout_is_served_beside_the_old_one_until_that_is_dropped(
    scene: Scene, version: str, other: ShardVersion
) -> None:
    new = other.manifest.version
    scene.served.add(handle_of(other))
    states = (await scene.transport.describe(index_pb2.DescribeRequest(), SECONDS)).versions
    assert [state.version for state in states] == [new, version]
    assert (await scene.search(version))[0].ids
    assert (await scene.search(new))[0].ids
    assert scene.served.remove(version) is not None
    assert (await scene.search(new))[0].ids
    expected = FailedPrecondition, f": this shard serves version {new}, not {version!r}"
    assert await scene.error_of(scene.search(version)) == expected


async def test_a_description_renews_the_lease_of_the_version_that_it_pins(scene: Scene, version: str) -> None:
    before = scene.served.uses()[version].pinned_until_s
    await scene.transport.describe(index_pb2.DescribeRequest(pinned="another"), SECONDS)
    assert scene.served.uses()[version].pinned_until_s == before
    await scene.transport.describe(index_pb2.DescribeRequest(pinned=version), SECONDS)
    assert scene.served.uses()[version].pinned_until_s > before


async def test_a_version_is_not_dropped_while_a_thread_works_for_a_caller_that_gave_up(
    scene: Scene, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, proceed = threading.Event(), threading.Event()

    def slow_count(*_: object) -> int:
        begun.set()
        assert proceed.wait(SECONDS)
        return 7

    monkeypatch.setattr(ShardVersion, "count", slow_count)
    counting = asyncio.ensure_future(scene.transport.count(index_pb2.ShardCountRequest(version=version), SECONDS))
    await until(begun.is_set)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert scene.calls(version)
    assert scene.served.remove(version) is None
    proceed.set()
    await until(lambda: not scene.calls(version))
    assert scene.served.remove(version) is not None


async def test_a_listing_that_is_closed_keeps_no_version(
    scene: Scene, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.serving.shard_version.PAGE_ROWS", 3)
    pages: Any = scene.transport.list(index_pb2.ShardListRequest(version=version), None)
    assert await anext(pages)
    await pages.aclose()
    await until(lambda: not scene.calls(version))


# Errors.


def calls_of(scene: Scene, version: str) -> dict[str, Callable[[], Awaitable[object]]]:
    transport = scene.transport
    return {
        "search": lambda: scene.search(version),
        "fetch": lambda: transport.fetch(index_pb2.FetchRequest(version=version, ids=["p1"]), SECONDS),
        "count": lambda: transport.count(index_pb2.ShardCountRequest(version=version), SECONDS),
        "list": lambda: scene.list(version),
        "apply": lambda: transport.apply(index_pb2.ApplyRequest(version=version, updates=[remove("p1", 1)]), SECONDS),
    }


METHODS = ["search", "fetch", "count", "list", "apply"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_version_that_is_not_served_is_refused(scene: Scene, version: str, method: str) -> None:
    expected = FailedPrecondition, f": this shard serves version {version}, not 'another'"
    assert await scene.error_of(calls_of(scene, "another")[method]()) == expected


@pytest.mark.parametrize("method", [*METHODS, "describe"])
async def test_a_shard_that_is_still_loading_is_unavailable(kind: str, method: str) -> None:
    async with a_scene(kind, shard_versions(time.monotonic, 30)) as scene:
        calls = calls_of(scene, "v")
        calls["describe"] = lambda: scene.transport.describe(index_pb2.DescribeRequest(), SECONDS)
        assert await scene.error_of(calls[method]()) == (Unavailable, ": UNAVAILABLE: the shard is still loading")


async def test_too_many_queries_or_updates_are_the_gateways_fault(scene: Scene, version: str) -> None:
    queries = [a_query()] * (MAX_QUERIES + 1)
    reason = f"the request has {MAX_QUERIES + 1} queries, at most {MAX_QUERIES} are allowed"
    assert await scene.error_of(scene.search(version, *queries)) == (
        InternalError,
        f": INVALID_ARGUMENT: queries: {reason}",
    )
    request = index_pb2.ApplyRequest(version=version, updates=[remove("p1", 1)] * (MAX_UPDATES + 1))
    reason = f"the request has {MAX_UPDATES + 1} updates, at most {MAX_UPDATES} are allowed"
    assert await scene.error_of(scene.transport.apply(request, SECONDS)) == (
        InternalError,
        f": INVALID_ARGUMENT: updates: {reason}",
    )


async def test_a_shard_without_a_live_directory_refuses_updates(scene: Scene, version: str) -> None:
    expected = FailedPrecondition, ": this shard takes no updates: it was started without --live-dir"
    assert await scene.error_of(calls_of(scene, version)["apply"]()) == expected


@pytest.mark.parametrize("method", ["search", "fetch", "count", "list"])
async def test_a_full_queue_refuses_at_once_and_says_when_to_retry(scene: Scene, version: str, method: str) -> None:
    with Gate(scene):
        waiting = scene.slots.ordinary.submit(lambda: None, NEVER)
        with pytest.raises(Overloaded) as raised:
            await calls_of(scene, version)[method]()
    waiting.result(SECONDS)
    assert str(raised.value) == f"shard {scene.transport.address}: the queue of the search threads is full"
    assert raised.value.retry_after_s == pytest.approx(0.1)


BROKEN = {"search": "start_search", "fetch": "fetch", "count": "count", "list": "page"}  # By the method that meets it.


@pytest.mark.parametrize("method", BROKEN)
async def test_a_bug_in_the_shard_is_logged_there_and_its_message_stays_there(
    scene: Scene,
    version: str,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(ShardVersion, BROKEN[method], fail)
    expected = InternalError, ": INTERNAL: internal error; see the server's log"
    assert await scene.error_of(calls_of(scene, version)[method]()) == expected
    (record,) = [record for record in caplog.records if record.getMessage() == "unexpected error"]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a secret"


# Time-outs and cancellation.


def impatient(scene: Scene, version: str) -> dict[str, Callable[[], Awaitable[object]]]:
    transport = scene.transport
    return {
        "search": lambda: scene.search(version, timeout_s=SOON),
        "fetch": lambda: transport.fetch(index_pb2.FetchRequest(version=version, ids=["p1"]), SOON),
        "count": lambda: transport.count(index_pb2.ShardCountRequest(version=version), SOON),
        "list": lambda: scene.list(version, timeout_s=SOON),
    }


@pytest.mark.parametrize("method", ["search", "fetch", "count", "list"])
async def test_a_late_answer_is_unavailable_and_its_slot_is_free_again(scene: Scene, version: str, method: str) -> None:
    with Gate(scene):
        for _ in range(2):
            expected = Unavailable, " did not answer in time"
            assert await scene.error_of(impatient(scene, version)[method]()) == expected
            await until(lambda: has_room(scene))
    await until(lambda: not scene.calls(version))
    assert (await scene.search(version))[0].ids


@pytest.mark.parametrize("method", ["search", "fetch", "count", "list"])
async def test_a_cancelled_call_frees_its_slot_and_its_version(scene: Scene, version: str, method: str) -> None:
    with Gate(scene):
        call = asyncio.ensure_future(calls_of(scene, version)[method]())
        await until(lambda: not has_room(scene))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: has_room(scene))
        await until(lambda: not scene.calls(version))
