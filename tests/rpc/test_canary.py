"""A version that answers a share of requests: real shards that follow LOCATION/CANARY, and a real gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.releases import version
from lookalike.releases.canary import Canary
from lookalike.releases.location import Directory
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import ListRequest, UpsertRequest
from lookalike.v1.search_pb2 import Example, Provenance, SearchRequest
from lookalike.v1.types_pb2 import Product, SpaceVector
from server.shard_group import ShardGroup
from tests.rpc.gateways import running_gateway
from tests.rpc.test_handover import COUNT, DIM, a_fleet, build_version, eventually
from tests.unit.index.samples import IMAGE


class Callers:
    """Users of a gateway, each with a key of their own or none."""

    def __init__(self, search: search_pb2_grpc.SimilarProductsAsyncStub) -> None:
        self._search = search

    async def ask(self, key: str = "", row: int = 0) -> Provenance:
        request = SearchRequest(examples=[Example(product_id=f"p{row}")], space=IMAGE, limit=5, routing_key=key)
        return (await self._search.Search(request)).provenance

    async def versions_of(self, keys: list[str]) -> dict[str, str]:
        return {key: (await self.ask(key)).version for key in keys}


@asynccontextmanager
async def a_gateway(addresses: list[str]) -> AsyncIterator[tuple[Callers, catalog_pb2_grpc.CatalogAsyncStub]]:
    async with (
        running_gateway({"shards": tuple(addresses), "refresh_s": 0.05}) as gateway,
        aio_channel(gateway) as channel,
    ):
        yield Callers(search_pb2_grpc.SimilarProductsStub(channel)), catalog_pb2_grpc.CatalogStub(channel)


def is_asked(callers: Callers, name: str, key: str = "") -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return (await callers.ask(key)).version == name

    return asked


KEYS = [f"user {number}" for number in range(60)]


async def test_a_canary_answers_its_share_of_keys_the_same_ones_each_time_and_then_all_or_none(
    tmp_path: Path,
) -> None:
    old, new = (build_version(tmp_path / "index", seed, 2) for seed in range(2))
    version.make_current(tmp_path / "index", old)
    location = Directory(tmp_path / "index")
    async with a_fleet(tmp_path) as (addresses, _), a_gateway(addresses) as (callers, _):
        assert set((await callers.versions_of(KEYS)).values()) == {old}
        location.set_canary(Canary(version=new, share=0.5))
        await eventually(is_asked(callers, new))
        first, again = await callers.versions_of(KEYS), await callers.versions_of(KEYS)
        assert first == again
        assert 15 <= Counter(first.values())[new] <= 45
        tried = next(key for key in KEYS if first[key] == new)
        provenance = await callers.ask(tried)
        assert (provenance.canary, provenance.cached, provenance.coverage) == (True, False, 1.0)
        assert not (await callers.ask(next(key for key in KEYS if first[key] == old))).canary

        location.set_canary(None)
        await eventually(is_asked(callers, old, tried))
        assert set((await callers.versions_of(KEYS)).values()) == {old}
        location.set_canary(Canary(version=new, share=1.0))
        await eventually(is_asked(callers, new))
        location.make_current(new)
        await eventually(partial(is_not_canary, callers))
        assert set((await callers.versions_of(KEYS)).values()) == {new}


async def is_not_canary(callers: Callers) -> bool:
    return not (await callers.ask()).canary


async def test_changes_are_made_in_the_canary_too(tmp_path: Path) -> None:
    old, new = (build_version(tmp_path / "index", seed, 2) for seed in range(2))
    version.make_current(tmp_path / "index", old)
    async with a_fleet(tmp_path) as (addresses, _), a_gateway(addresses) as (callers, catalog):
        Directory(tmp_path / "index").set_canary(Canary(version=new, share=1.0))
        await eventually(is_asked(callers, new))
        vector = SpaceVector(space=IMAGE, vector=b"\0\0\x80\x3f" * DIM)
        await catalog.Upsert(UpsertRequest(product=Product(id="new", category="home"), revision=1, vectors=[vector]))
        await eventually(partial(counts, callers, new, COUNT + 1))
        assert "new" in {product.id async for product in catalog.List(ListRequest())}  # By the current version.


async def test_no_call_fails_because_a_version_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (build_version(tmp_path / "index", seed, 2) for seed in range(2))
    version.make_current(tmp_path / "index", old)
    search = ShardGroup.search

    async def fail_of_new(group: ShardGroup, snapshot, *arguments):  # type: ignore[no-untyped-def]  # as `search`
        if snapshot.version == new:
            raise Unavailable("the canary is ill")
        return await search(group, snapshot, *arguments)

    failed = partial(
        REGISTRY.get_sample_value,
        "lookalike_search_by_release_seconds_count",
        {"release": "canary", "outcome": "UNAVAILABLE"},
    )
    before = failed() or 0
    async with a_fleet(tmp_path) as (addresses, _), a_gateway(addresses) as (callers, _):
        Directory(tmp_path / "index").set_canary(Canary(version=new, share=1.0))
        await eventually(is_asked(callers, new))
        monkeypatch.setattr(ShardGroup, "search", fail_of_new)
        provenance = await callers.ask(row=1)
        assert (provenance.version, provenance.canary) == (old, False)
    assert (failed() or 0) == before + 1


async def test_a_canary_of_another_number_of_shards_is_tried_on_nobody(tmp_path: Path) -> None:
    old, other = build_version(tmp_path / "index", 0, 2), build_version(tmp_path / "index", 1, 3)
    version.make_current(tmp_path / "index", old)
    async with a_fleet(tmp_path) as (addresses, shards), a_gateway(addresses) as (callers, _):
        Directory(tmp_path / "index").set_canary(Canary(version=other, share=1.0))
        loaded = partial(loads, shards[0].rollout, other)
        await eventually(loaded)
        assert set((await callers.versions_of(KEYS)).values()) == {old}


async def counts(callers: Callers, name: str, documents: int) -> bool:
    provenance = await callers.ask()
    assert provenance.version == name
    return provenance.documents_total == documents


async def loads(rollout: object, name: str) -> bool:
    return name in rollout._served.uses()  # type: ignore[attr-defined]  # it has no window for it
