"""A new version while a gateway is asked without a pause: real shards, real gateway, real files."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from index.building.build import SpaceVectors, build
from index.serving.loading import Loader
from index.serving.pool import Pool
from index.serving.rollout import Rollout
from index.serving.served import Served
from index.serving.service import IndexShard
from index.serving.writer import Writer
from index.storage import version
from index.storage.location import Directory
from lookalike.channels import aio_channel
from lookalike.runtime import lifecycle
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.rpc.gateways import running_gateway, serving
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

COUNT, DIM, SHARDS = 600, 16, 2
POLL_S, LEASE_S, REFRESH_S = 0.05, 0.5, 0.05


def built(location: Path, what: str) -> str:
    """A version whose titles all say what it is."""
    products = catalogue(COUNT)
    products = products.set_column(products.column_names.index("title"), "title", [[what] * COUNT])
    given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM))}
    return build(location, products, given, shards=SHARDS, exact_floats=100)


@dataclass
class Shard:
    served: Served
    rollout: Rollout
    address: str


@asynccontextmanager
async def a_shard(location: Path, number: int) -> AsyncIterator[Shard]:
    place = Directory(location)
    served, pool = Served(time.monotonic, LEASE_S), Pool(threads=1, max_waiting=256)
    rollout = Rollout(
        served,
        wanted=place.current,
        load=Loader(location=place, shard=number, hold=place.hold),
        clock=time.monotonic,
        retry_s=POLL_S,
    )
    await rollout.start()
    service = IndexShard(pool, served, Writer(served, max_waiting=8))
    async with lifecycle.alongside(rollout.watch(POLL_S)), serving(service.handler()) as address:
        yield Shard(served, rollout, address)
    rollout.close()
    pool.close()


@dataclass
class Callers:
    """Eight that ask for neighbours without a pause, and two that list; what each answer was of."""

    address: str
    answers: Counter[str] = field(default_factory=Counter)  # By version.
    titles: dict[str, set[str]] = field(default_factory=dict)  # By version.
    coverages: set[float] = field(default_factory=set)
    lists: set[tuple[int, frozenset[str]]] = field(default_factory=set)

    async def ask(self, number: int) -> None:
        async with aio_channel(self.address) as channel:
            stub = search_pb2_grpc.SimilarProductsStub(channel)
            for row in range(number, 1 << 30, 7):
                example = Example(product_id=f"p{row % COUNT}")
                answer = await stub.Search(SearchRequest(examples=[example], space=SPACE_IMAGE, limit=20))
                told = answer.provenance
                self.answers[told.version] += 1
                self.coverages.add(told.coverage)
                self.titles.setdefault(told.version, set()).update(hit.product.title for hit in answer.hits)

    async def list(self) -> None:
        async with aio_channel(self.address) as channel:
            stub = catalog_pb2_grpc.CatalogStub(channel)
            while True:
                titles = [product.title async for product in stub.List(catalog_pb2.ListRequest())]
                self.lists.add((len(titles), frozenset(titles)))


async def until(condition: Callable[[], bool], calling: asyncio.Future[Any]) -> None:
    """Raises what a call raised."""
    while not condition():
        if calling.done():
            calling.result()
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_versions_change_under_load_without_a_failed_partial_or_mixed_answer(tmp_path: Path) -> None:
    names = [built(tmp_path, "version 0")]
    async with (
        a_shard(tmp_path, 0) as first,
        a_shard(tmp_path, 1) as second,
        running_gateway(
            {"shards": (first.address, second.address), "refresh_s": REFRESH_S, "cache_ttl_s": 0.0}
        ) as address,
    ):
        callers = Callers(address)
        calling = asyncio.gather(*(callers.ask(number) for number in range(8)), callers.list(), callers.list())
        for change in range(1, 4):
            await until(lambda: callers.answers[names[-1]] >= 100, calling)
            names.append(await asyncio.to_thread(built, tmp_path, f"version {change}"))
        await until(lambda: callers.answers[names[-1]] >= 100, calling)
        version.make_current(tmp_path, back := names[2])
        before = callers.answers[back]
        await until(lambda: callers.answers[back] >= before + 100, calling)
        await until(lambda: all([*shard.served.uses()] == [back] for shard in (first, second)), calling)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert callers.coverages == {1.0}
    assert callers.titles == {name: {f"version {i}"} for i, name in enumerate(names)}
    assert {length for length, _ in callers.lists} == {COUNT}
    assert all(len(titles) == 1 for _, titles in callers.lists)


@pytest.mark.slow
async def test_a_version_that_one_shard_refuses_is_moved_to_by_none_until_it_is_mended(tmp_path: Path) -> None:
    location, elsewhere = tmp_path / "index", tmp_path / "elsewhere"
    old, new = built(location, "old"), built(elsewhere, "new")
    (elsewhere / new).rename(location / new)
    damaged = location / new / "shard-00001" / "attributes.arrow"
    damaged.write_bytes(flipped(damaged.read_bytes()))
    async with (
        a_shard(location, 0) as first,
        a_shard(location, 1) as second,
        running_gateway(
            {"shards": (first.address, second.address), "refresh_s": REFRESH_S, "cache_ttl_s": 0.0}
        ) as address,
    ):
        callers = Callers(address)
        calling = asyncio.gather(*(callers.ask(number) for number in range(4)))
        version.make_current(location, new)
        await until(lambda: new in first.served.uses() and bool(second.served.describe(old).refusal), calling)
        assert f"version {new}: {damaged}: damaged" in second.served.describe(old).refusal
        before = callers.answers[old]
        await until(lambda: callers.answers[old] >= before + 100, calling)
        assert callers.answers.keys() == {old}
        damaged.write_bytes(flipped(damaged.read_bytes()))
        await until(lambda: callers.answers[new] >= 100, calling)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert callers.coverages == {1.0}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.slow
async def test_a_list_that_its_caller_leaves_does_not_keep_a_version_for_ever(tmp_path: Path) -> None:
    old = built(tmp_path, "old")
    async with (
        a_shard(tmp_path, 0) as first,
        a_shard(tmp_path, 1) as second,
        running_gateway({"shards": (first.address, second.address), "refresh_s": REFRESH_S}) as address,
        aio_channel(address) as channel,
    ):
        stub = catalog_pb2_grpc.CatalogStub(channel)
        listing = stub.List(catalog_pb2.ListRequest())
        assert await listing.read()
        listing.cancel()
        await asyncio.to_thread(built, tmp_path, "new")
        never = asyncio.get_running_loop().create_future()
        await until(lambda: not any(old in shard.served.uses() for shard in (first, second)), never)
