"""Rollouts to another version under continuous load: real shards, real gateway, real files."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from index.building.build import SpaceVectors, build
from index.serving.loader import Loader
from index.serving.service import IndexShard
from index.serving.settings import ShardSettings
from index.serving.shard import open_shards
from index.serving.shard_version import ShardVersion, map_shard
from index.serving.slots import Slots
from index.serving.versions import ShardRolloutMetrics, ShardVersions, describe, shard_versions
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.rollout import Rollout
from lookalike.runtime import lifecycle
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.rpc.gateways import running_gateway, serving
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

COUNT, DIM, SHARDS = 600, 16, 2
# The lease outlasts what two busy cores may keep a gateway from renewing it.
POLL_S, LEASE_S, REFRESH_S = 0.05, 4.0, 0.05
# Between the calls of a caller, for what it waits for needs the cores, too; a list is of all products.
SEARCH_PAUSE_S, LIST_PAUSE_S = 0.05, 0.2


def build_version(location: Path, title: str) -> str:
    """Build a version in which every product has this title."""
    products = catalogue(COUNT)
    products = products.set_column(products.column_names.index("title"), "title", [[title] * COUNT])
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM))}
    return build(location, products, spaces, shards=SHARDS, exact_floats=100)


@dataclass
class Shard:
    served: ShardVersions
    rollout: Rollout[ShardVersion]
    address: str


@asynccontextmanager
async def a_shard(path: Path, number: int) -> AsyncIterator[Shard]:
    location = Directory(path)
    served, slots = shard_versions(time.monotonic, LEASE_S), Slots(threads=1, max_waiting=256)
    rollout = Rollout(
        served,
        read_target=location.current,
        load=Loader(location=location, shard=number, pin_files=location.pin),
        clock=time.monotonic,
        metrics=ShardRolloutMetrics(number),
        retry_s=POLL_S,
    )
    await rollout.start()
    service = IndexShard(slots, served, Writer(served, max_waiting=8))
    async with lifecycle.background_task(rollout.watch(POLL_S)), serving(service.handler()) as address:
        yield Shard(served, rollout, address)
    rollout.close()
    slots.close()


@dataclass
class Callers:
    """Clients that search and list in a loop, and what they received."""

    address: str
    searches: Counter[str] = field(default_factory=Counter)  # Completed, by version.
    titles: dict[str, set[str]] = field(default_factory=dict)  # By version.
    coverages: set[float] = field(default_factory=set)
    lists: set[tuple[int, frozenset[str]]] = field(default_factory=set)

    async def search(self, number: int) -> None:
        async with aio_channel(self.address) as channel:
            stub = search_pb2_grpc.SimilarProductsStub(channel)
            for row in range(number, 1 << 30, 7):
                example = Example(product_id=f"p{row % COUNT}")
                response = await stub.Search(SearchRequest(examples=[example], space=SPACE_IMAGE, limit=20))
                provenance = response.provenance
                self.searches[provenance.version] += 1
                self.coverages.add(provenance.coverage)
                self.titles.setdefault(provenance.version, set()).update(hit.product.title for hit in response.hits)
                await asyncio.sleep(SEARCH_PAUSE_S)

    async def list(self) -> None:
        async with aio_channel(self.address) as channel:
            stub = catalog_pb2_grpc.CatalogStub(channel)
            while True:
                titles = [product.title async for product in stub.List(catalog_pb2.ListRequest())]
                self.lists.add((len(titles), frozenset(titles)))
                await asyncio.sleep(LIST_PAUSE_S)


async def until(condition: Callable[[], bool], calling: asyncio.Future[Any]) -> None:
    """Wait until the condition holds. Raises what a call raised."""
    while not condition():
        if calling.done():
            calling.result()
        await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_rollouts_under_load_give_no_failed_partial_or_mixed_response(tmp_path: Path) -> None:
    names = [build_version(tmp_path, "version 0")]
    async with (
        a_shard(tmp_path, 0) as first,
        a_shard(tmp_path, 1) as second,
        running_gateway(
            {"shards": (first.address, second.address), "refresh_s": REFRESH_S, "cache_ttl_s": 0.0}
        ) as address,
    ):
        callers = Callers(address)
        calling = asyncio.gather(*(callers.search(number) for number in range(8)), callers.list(), callers.list())
        for change in range(1, 4):
            await until(lambda: callers.searches[names[-1]] >= 100, calling)
            names.append(await asyncio.to_thread(build_version, tmp_path, f"version {change}"))
        await until(lambda: callers.searches[names[-1]] >= 100, calling)
        version.make_current(tmp_path, back := names[2])
        before = callers.searches[back]
        await until(lambda: callers.searches[back] >= before + 100, calling)
        await until(lambda: all([*shard.served.uses()] == [back] for shard in (first, second)), calling)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert callers.coverages == {1.0}
    assert callers.titles == {name: {f"version {i}"} for i, name in enumerate(names)}
    assert {length for length, _ in callers.lists} == {COUNT}
    assert all(len(titles) == 1 for _, titles in callers.lists)


@pytest.mark.slow
async def test_no_gateway_moves_to_a_version_that_one_shard_cannot_load(tmp_path: Path) -> None:
    location, elsewhere = tmp_path / "index", tmp_path / "elsewhere"
    old, new = build_version(location, "old"), build_version(elsewhere, "new")
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
        calling = asyncio.gather(*(callers.search(number) for number in range(4)))
        version.make_current(location, new)
        await until(lambda: new in first.served.uses() and bool(describe(second.served, old).refusal), calling)
        assert f"version {new}: {damaged}: damaged" in describe(second.served, old).refusal
        before = callers.searches[old]
        await until(lambda: callers.searches[old] >= before + 100, calling)
        assert callers.searches.keys() == {old}
        damaged.write_bytes(flipped(damaged.read_bytes()))
        await until(lambda: callers.searches[new] >= 100, calling)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert callers.coverages == {1.0}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.slow
async def test_a_cancelled_list_does_not_keep_a_version_loaded(tmp_path: Path) -> None:
    old = build_version(tmp_path, "old")
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
        await asyncio.to_thread(build_version, tmp_path, "new")
        pending = asyncio.get_running_loop().create_future()
        await until(lambda: not any(old in shard.served.uses() for shard in (first, second)), pending)


async def test_a_version_is_loaded_at_the_priority_of_calls_and_hashed_at_a_lower_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = build_version(tmp_path / "index", "a title")
    version.make_current(tmp_path / "index", name)
    priorities: dict[str, int] = {}

    def noting(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            priorities[what] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            return function(*arguments, **named)

        return noted

    monkeypatch.setattr("index.serving.loader.map_shard", noting("load", map_shard))
    monkeypatch.setattr(version, "file_entry", noting("hash", version.file_entry))
    with open_shards(ShardSettings(location=str(tmp_path / "index")), [0]) as (shard,):
        await shard.rollout.start()
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert priorities["load"] == own
    assert priorities["hash"] == min(own + 10, 19)
