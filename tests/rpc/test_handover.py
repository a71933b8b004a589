"""Versions of another number of shards: real shards and a real gateway, which moves under continuous changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from index.building.build import build
from index.serving.settings import ShardSettings
from index.serving.shard import RunningShard, open_shards
from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.releases import version
from lookalike.releases.names import shard_name
from lookalike.runtime import lifecycle
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc, search_pb2, search_pb2_grpc
from lookalike.v1.index_pb2 import FinishHandoverRequest
from lookalike.v1.types_pb2 import Product, SpaceVector
from server import handover
from server.remote_shard import RemoteShard
from tests.rpc.gateways import running_gateway, serving
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

COUNT, DIM = 200, 8
CHANGE_PAUSE_S, SEARCH_PAUSE_S = 0.002, 0.02  # Between calls: what they wait for needs the cores, too.
FLEET = 3  # Shard processes, of which a version of two shards leaves one idle.


def build_version(location: Path, seed: int, shards: int, encoder: str = "drawn") -> str:
    vectors = vectors_of(unit_vectors(COUNT, DIM, seed), encoder=encoder)
    return build(location, catalogue(COUNT), {IMAGE: vectors}, shards=shards, serve=False)


@asynccontextmanager
async def a_fleet(root: Path, lease_s: float = 0.5) -> AsyncIterator[tuple[list[str], list[RunningShard]]]:
    """The addresses of the shard processes of ROOT/index, and the shards."""
    settings = ShardSettings(
        location=str(root / "index"), live_dir=root / "live", poll_s=0.05, lease_s=lease_s, threads=1, delta_rows=128
    )
    async with AsyncExitStack() as opened:
        shards, addresses = [], []
        for number in range(FLEET):
            (shard,) = opened.enter_context(open_shards(settings, [number]))
            await shard.rollout.start()
            await opened.enter_async_context(lifecycle.background_task(shard.rollout.watch(settings.poll_s)))
            addresses.append(await opened.enter_async_context(serving(shard.service.handler())))
            shards.append(shard)
        yield addresses, shards


class Shop:
    """A caller that changes products and searches, and knows what was answered."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)
        self._search = search_pb2_grpc.SimilarProductsStub(channel)
        self.expected: dict[str, float | None] = {}  # Price by id, of the products that were changed; None: removed.
        self.answered = 0
        self.closes = False
        self.versions = set[str]()
        self.coverage = set[float]()

    async def change(self) -> None:
        """One change after the other, of every kind, until the shop closes. Any error ends it."""
        random = np.random.default_rng(0)
        while not self.closes:
            revision, number = self.answered + 1, int(random.integers(2 * COUNT))
            product_id = f"p{number}" if number < COUNT else f"new{number}"
            product = Product(id=product_id, category="home", price=float(revision), currency="EUR")
            kind = int(random.integers(4))
            if kind == 0:
                await self._catalog.Remove(catalog_pb2.RemoveRequest(product_id=product_id, revision=revision))
                self.expected[product_id] = None
            elif kind == 1 and self.expected.get(product_id, 0.0 if number < COUNT else None) is not None:
                patch = catalog_pb2.PatchRequest(product=product, revision=revision)
                patch.update_mask.paths.extend(("price", "currency"))
                await self._catalog.Patch(patch)
                self.expected[product_id] = product.price
            else:
                vector = random.normal(size=DIM).astype("<f4").tobytes()
                upsert = catalog_pb2.UpsertRequest(
                    product=product, revision=revision, vectors=[SpaceVector(space=IMAGE, vector=vector)]
                )
                await self._catalog.Upsert(upsert)
                self.expected[product_id] = product.price
            self.answered += 1
            await asyncio.sleep(CHANGE_PAUSE_S)

    async def search(self) -> None:
        random = np.random.default_rng(1)
        while not self.closes:
            vector = random.normal(size=DIM).astype("<f4").tobytes()
            request = search_pb2.SearchRequest(examples=[search_pb2.Example(vector=vector)], space=IMAGE, limit=5)
            response = await self._search.Search(request)
            self.versions.add(response.provenance.version)
            self.coverage.add(response.provenance.coverage)
            await asyncio.sleep(SEARCH_PAUSE_S)

    async def version(self) -> str:
        return (await self._catalog.Count(catalog_pb2.CountRequest())).version

    async def contradictions(self) -> list[str]:
        """The products that are not as the last answered change left them."""
        listed = {each.id: each.price async for each in self._catalog.List(catalog_pb2.ListRequest())}
        expected = {f"p{i}": 0.0 for i in range(COUNT)} | self.expected
        return [
            f"{product_id}: {listed.get(product_id)}, expected {price}"
            for product_id, price in expected.items()
            if product_id in self.expected and listed.get(product_id) != price
        ] + [each for each in listed if each not in expected]


@asynccontextmanager
async def a_shop(addresses: Sequence[str], refresh_s: float = 0.1) -> AsyncIterator[Shop]:
    settings = {"shards": tuple(addresses), "refresh_s": refresh_s, "cache_ttl_s": 0.0}
    async with running_gateway(settings) as gateway, aio_channel(gateway) as channel:
        yield Shop(channel)


async def eventually(condition: Callable[[], Awaitable[bool]], *working: asyncio.Future[Any]) -> None:
    """Wait until the condition holds. Raises what a call raised."""
    while not await condition():
        for task in working:
            if task.done():
                task.result()
        await asyncio.sleep(0.02)


async def move(shop: Shop, root: Path, name: str, *working: asyncio.Task[None]) -> None:
    """Let a version serve, and wait until the gateway does and some changes were made since."""
    version.make_current(root / "index", name)
    await eventually(partial(serves, shop, name), *working)
    await eventually(partial(has_answered, shop, shop.answered + 50), *working)


async def serves(shop: Shop, name: str) -> bool:
    return await shop.version() == name


async def has_answered(shop: Shop, count: int) -> bool:
    return shop.answered >= count


async def has_all_changes(shop: Shop) -> bool:
    return not await shop.contradictions()


async def test_changes_follow_their_products_to_their_new_owners_and_back(tmp_path: Path) -> None:
    two, three = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", two)
    async with a_fleet(tmp_path) as (addresses, _), a_shop(addresses) as shop, a_shop(addresses) as other:
        working = [asyncio.create_task(work()) for work in (shop.change, shop.search, other.search)]
        await eventually(partial(has_answered, shop, 100), *working)
        for name in (three, two, three):
            await move(shop, tmp_path, name, *working)
        await eventually(partial(serves, other, three), *working)
        shop.closes = other.closes = True
        await asyncio.gather(*working)
        assert await shop.contradictions() == []
        assert shop.versions == {two, three}
        assert shop.coverage | other.coverage == {1.0}


async def test_a_change_does_not_wait_for_the_next_poll_of_its_gateway_when_another_has_handed_over(
    tmp_path: Path,
) -> None:
    two, three = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", two)
    async with (
        a_fleet(tmp_path, lease_s=600) as (addresses, _),
        a_shop(addresses) as shop,
        a_shop(addresses, refresh_s=60) as other,  # Longer than a change may take.
    ):
        version.make_current(tmp_path / "index", three)
        await eventually(partial(serves, shop, three))
        assert await other.version() == two
        changing = asyncio.create_task(other.change())
        await eventually(partial(has_answered, other, 1), changing)
        other.closes = True
        await changing
        assert await other.version() == three


async def test_changes_on_disk_follow_a_version_that_begins_at_a_start(tmp_path: Path) -> None:
    two, three = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", two)
    async with a_fleet(tmp_path) as (addresses, _), a_shop(addresses) as shop:
        changing = asyncio.create_task(shop.change())
        await eventually(partial(has_answered, shop, 100), changing)
        shop.closes = True
        await changing
        expected = shop.expected
    version.make_current(tmp_path / "index", three)
    async with a_fleet(tmp_path) as (addresses, _), a_shop(addresses) as shop:
        shop.expected = expected
        await eventually(partial(has_all_changes, shop))
        assert version.read_current(tmp_path / "live" / shard_name(2)) == three


async def test_after_a_handover_that_failed_the_old_version_takes_updates_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, three = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", two)
    finish, failures = RemoteShard.finish_handover, [0]

    async def fail_at_first(shard: RemoteShard, request: FinishHandoverRequest, timeout_s: float) -> None:
        if failures[0] < 2:
            failures[0] += 1
            raise Unavailable("the network is down")
        await finish(shard, request, timeout_s)

    monkeypatch.setattr(RemoteShard, "finish_handover", fail_at_first)
    monkeypatch.setattr(handover, "_SEAL_S", 0.5)
    async with a_fleet(tmp_path) as (addresses, _), a_shop(addresses) as shop:
        changing = asyncio.create_task(shop.change())
        await eventually(partial(has_answered, shop, 50), changing)
        await move(shop, tmp_path, three, changing)
        shop.closes = True
        await changing
        assert failures == [2]
        assert await shop.contradictions() == []


async def test_changes_are_handed_over_from_all_replicas_to_all_replicas(tmp_path: Path) -> None:
    two, three = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", two)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "index").symlink_to(tmp_path / "index")
    async with a_fleet(tmp_path) as (first, _), a_fleet(tmp_path / "second") as (second, _):
        async with a_shop([*map("+".join, zip(first, second, strict=True))]) as shop:
            changing = asyncio.create_task(shop.change())
            await eventually(partial(has_answered, shop, 50), changing)
            await move(shop, tmp_path, three, changing)
            shop.closes = True
            await changing
            assert await shop.contradictions() == []
        for replicas in (first, second):
            async with a_shop(replicas) as alone:
                alone.expected = shop.expected
                assert await alone.contradictions() == []
