"""Cached answers while the catalogue changes, through real gateways, with real shards and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from index.backends.faiss_support import use_threads
from index.building.build import build
from lookalike.channels import aio_channel
from lookalike.timestamps import unix_time_s
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import PatchRequest, RemoveRequest, UpsertRequest
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_TEXT, Filter, Product, SpaceVector
from tests.conftest import running_redis
from tests.rpc.gateways import SHARDS, running_gateway
from tests.rpc.live_shards import live_shards
from tests.unit.index.samples import catalogue, unit_vectors, vectors_of

VECTORS = unit_vectors(40, 8)
NEW = unit_vectors(1, 8, seed=5)[0]
HOUR_S = 3600.0


class Caller(NamedTuple):
    """A client of one gateway. Its changes have rising revisions."""

    search_stub: search_pb2_grpc.SimilarProductsAsyncStub
    catalog: catalog_pb2_grpc.CatalogAsyncStub

    async def search(self, limit: int = 3, filter: Filter | None = None, **example: object) -> SearchResponse:
        """Products similar to p0's vector; another `example` is given by its field."""
        examples = [Example(**(example or {"vector": VECTORS[0].tobytes()}))]  # type: ignore[arg-type]
        return await self.search_stub.Search(
            SearchRequest(examples=examples, space=SPACE_TEXT, limit=limit, filter=filter)
        )

    async def patch(self, product_id: str, revision: int, **fields: object) -> None:
        product = Product(id=product_id, **fields)  # type: ignore[arg-type]
        mask = FieldMask(paths=[*fields])
        assert (await self.catalog.Patch(PatchRequest(product=product, update_mask=mask, revision=revision))).applied

    async def upsert(self, product_id: str, revision: int, **fields: object) -> None:
        """With the vector NEW."""
        product = Product(id=product_id, category="home", **fields)  # type: ignore[arg-type]
        vectors = [SpaceVector(space=SPACE_TEXT, vector=NEW.tobytes())]
        assert (await self.catalog.Upsert(UpsertRequest(product=product, vectors=vectors, revision=revision))).applied

    async def remove(self, product_id: str, revision: int) -> None:
        assert (await self.catalog.Remove(RemoveRequest(product_id=product_id, revision=revision))).applied


@asynccontextmanager
async def gateway(shards: tuple[str, ...], **settings: object) -> AsyncIterator[Caller]:
    """A gateway that polls its shards at its start, and then only once a minute."""
    async with (
        running_gateway({"shards": shards, "refresh_s": 60.0, "cache_staleness_s": HOUR_S, **settings}) as address,
        aio_channel(address) as channel,
    ):
        yield Caller(search_pb2_grpc.SimilarProductsStub(channel), catalog_pb2_grpc.CatalogStub(channel))


@pytest.fixture
async def shards(tmp_path: Path) -> AsyncIterator[tuple[str, ...]]:
    use_threads(1)
    build(tmp_path / "index", catalogue(40), {SPACE_TEXT: vectors_of(VECTORS)}, shards=SHARDS)
    async with live_shards(tmp_path) as addresses:
        yield addresses


@pytest.fixture
async def caller(shards: tuple[str, ...]) -> AsyncIterator[Caller]:
    async with gateway(shards) as caller:
        yield caller


def ids(response: SearchResponse) -> list[str]:
    return [hit.product.id for hit in response.hits]


def cached(response: SearchResponse) -> bool | str:
    """Whether the answer was cached; "stale" where it says that a search might find more."""
    stale_s = response.provenance.stale_s
    assert 0 <= stale_s < HOUR_S
    return "stale" if stale_s else response.provenance.cached


async def until(
    search: Callable[[], Awaitable[SearchResponse]], condition: Callable[[SearchResponse], object]
) -> SearchResponse:
    """The first answer that meets the condition."""
    for _ in range(1000):
        if condition(response := await search()):
            return response
        await asyncio.sleep(0.02)
    raise AssertionError(f"the last answer of a thousand was {response}")


async def test_a_patch_of_a_hit_is_in_the_next_answer_of_its_gateway_and_in_that_of_another_after_its_poll(
    shards: tuple[str, ...],
) -> None:
    async with gateway(shards) as first, gateway(shards, refresh_s=0.05) as second:
        for each in (first, second):
            assert [cached(await each.search()) for _ in range(2)] == [False, True]
        hit = ids(await first.search())[1]
        await first.patch(hit, 1, price=77)
        response = await first.search()
        assert (cached(response), response.hits[1].product.price) == (False, 77)
        assert cached(await first.search()) is True
        response = await until(second.search, lambda response: response.hits[1].product.price == 77)
        assert cached(response) is False


async def test_changes_elsewhere_leave_an_answer_what_it_is(caller: Caller) -> None:
    before = await caller.search()
    others = [f"p{i}" for i in range(40) if f"p{i}" not in ids(before)]
    await caller.patch(others[0], 1, price=77)
    await caller.remove(others[1], 1)
    after = await caller.search()
    assert (cached(after), after.hits) == (True, before.hits)


async def test_where_a_change_elsewhere_may_add_a_hit_the_answer_says_that_it_is_stale(caller: Caller) -> None:
    filter = Filter(in_stock=True)
    before, filtered = await caller.search(), await caller.search(filter=filter)
    others = [f"p{i}" for i in range(40) if f"p{i}" not in ids(before) + ids(filtered)]
    await caller.patch(others[0], 1, in_stock=True)
    assert cached(await caller.search()) is True
    assert cached(await caller.search(filter=filter)) == "stale"
    await caller.upsert("new", 1)
    assert cached(await caller.search()) == "stale"
    assert cached(await caller.search(limit=4)) is False


async def test_with_a_limit_per_shop_a_patch_of_any_shop_may_add_a_hit(caller: Caller) -> None:
    request = SearchRequest(examples=[Example(vector=NEW.tobytes())], space=SPACE_TEXT, limit=3, max_per_shop=1)
    before = await caller.search_stub.Search(request)
    other = next(f"p{i}" for i in range(40) if f"p{i}" not in ids(before))
    await caller.patch(other, 1, shop="one of its own")
    assert cached(await caller.search_stub.Search(request)) == "stale"


async def test_an_answer_does_not_outlive_its_example_product(caller: Caller) -> None:
    await caller.upsert("new", 1)
    before = await caller.search(product_id="new")
    assert cached(await caller.search(product_id="new")) is True
    vectors = [SpaceVector(space=SPACE_TEXT, vector=VECTORS[0].tobytes())]
    product = Product(id="new", category="home")
    await caller.catalog.Upsert(UpsertRequest(product=product, vectors=vectors, revision=2))
    after = await caller.search(product_id="new")
    assert cached(after) is False
    assert ids(after) != ids(before)


async def test_an_expired_product_is_not_in_a_cached_answer(caller: Caller) -> None:
    await caller.upsert("new", 1, expires_at=int(unix_time_s()) + 2)

    def search() -> Awaitable[SearchResponse]:
        return caller.search(vector=NEW.tobytes())

    assert "new" in ids(await search())
    assert cached(await until(search, lambda response: "new" not in ids(response))) is False
    assert cached(await search()) is True


async def test_gateways_that_share_a_redis_share_answers_and_neither_takes_one_that_it_knows_to_be_changed(
    shards: tuple[str, ...],
) -> None:
    with running_redis() as (url, _):
        async with (
            gateway(shards, redis=url, cache_timeout_s=2) as first,
            gateway(shards, redis=url, cache_timeout_s=2) as second,
        ):
            await first.search()
            await until(second.search, lambda response: response.provenance.cached)
            hit = ids(await first.search())[0]
            await first.patch(hit, 1, price=77)
            # The second does not know it yet, and takes the answer that it finds; the first does not.
            assert cached(await second.search()) is True
            response = await first.search()
            assert (cached(response), response.hits[0].product.price) == (False, 77)
            # What the first has computed, the second takes from Redis, although it knows of no change.
            response = await until(second.search, lambda response: response.hits[0].product.price == 77)
            assert cached(response) is True
            # What the second computes may lack the change, as far as it knows: the first does not take it.
            assert cached(await second.search(limit=5)) is False
            await until(lambda: second.search(limit=5), cached)
            assert cached(await first.search(limit=5)) is False


async def test_a_damaged_value_in_redis_is_never_an_answer_and_is_overwritten(shards: tuple[str, ...]) -> None:
    with running_redis() as (url, _):
        async with gateway(shards, redis=url, cache_timeout_s=2) as caller, Redis.from_url(url) as redis:
            before = await caller.search()
            await until(caller.search, lambda response: response.provenance.cached)
            (name,) = await redis.keys()
            stored = await redis.get(name)
            assert isinstance(stored, bytes)
            for damaged in (b"garbage", b"", b"\xff", stored[:-1], stored[:50], stored[:60] + b"x" + stored[61:]):
                await redis.set(name, damaged)
                response = await caller.search()
                assert (cached(response), response.hits) == (False, before.hits)
                await until(caller.search, lambda response: response.provenance.cached)


async def test_look_ups_are_counted_by_why_a_cached_answer_was_used_or_not(caller: Caller) -> None:
    counts = {outcome: lookups(outcome) for outcome in ("hit", "stale_hit", "miss", "changed")}
    hit = ids(await caller.search())[0]
    await caller.search()
    await caller.upsert("new", 1)
    await caller.search()
    await caller.patch(hit, 1, price=77)
    await caller.search()
    assert {outcome: lookups(outcome) - before for outcome, before in counts.items()} == dict.fromkeys(counts, 1)


def lookups(outcome: str) -> float:
    return REGISTRY.get_sample_value("lookalike_cache_lookups_total", {"outcome": outcome}) or 0
