"""A gateway over shards of several replicas, over real gRPC: hangs, failures, changes, readiness."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from index.building.build import build
from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.v1 import catalog_pb2_grpc, search_pb2_grpc
from lookalike.v1.catalog_pb2 import CountRequest, GetRequest, RemoveRequest, UpsertRequest
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_TEXT, Product, SpaceVector
from lookalike.vectors import pack
from server.app import build_gateway, build_shards
from server.settings import GatewaySettings
from tests.rpc.gateways import SHARDS, VECTORS, ScriptedShard, running_gateway, serving
from tests.rpc.live_shards import live_shards
from tests.unit.index.samples import IMAGE, catalogue, unit_vectors, vectors_of

SEARCH = SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT)


@asynccontextmanager
async def scripted_replicas() -> AsyncIterator[tuple[list[list[ScriptedShard]], tuple[str, ...]]]:
    """Two replicas of each shard, and the gateway's setting of their addresses."""
    async with AsyncExitStack() as servers:
        shards = [[ScriptedShard(number), ScriptedShard(number)] for number in range(SHARDS)]
        addresses = [[await servers.enter_async_context(serving(r.handler())) for r in each] for each in shards]
        yield shards, tuple(map("+".join, addresses))


async def test_a_replica_that_hangs_and_one_that_fails_cost_no_answer() -> None:
    async with scripted_replicas() as (shards, addresses):
        settings = {"shards": addresses, "refresh_s": 0.05, "cache_ttl_s": 0.0, "shard_hang_s": 0.2}
        async with running_gateway(settings) as address, aio_channel(address) as channel:
            stub = search_pb2_grpc.SimilarProductsStub(channel)
            shards[0][0].hang, shards[1][1].error = True, Unavailable("broken")
            for _ in range(3):
                answers = await asyncio.gather(*(stub.Search(SEARCH) for _ in range(20)))
                assert [each.provenance.coverage for each in answers] == [1.0] * 20
                await asyncio.sleep(0.2)
            assert replicas_in_service() == [1, 1]
            shards[0][0].hang, shards[1][1].error = False, None
            async with asyncio.timeout(30):
                while replicas_in_service() != [2, 2]:  # noqa: ASYNC110  # probes bring them back
                    await asyncio.sleep(0.02)


def replicas_in_service() -> list[float | None]:
    labels = [{"shard": str(number), "state": "in_service"} for number in range(SHARDS)]
    return [REGISTRY.get_sample_value("lookalike_shard_replicas", each) for each in labels]


@pytest.mark.parametrize(("coverage", "is_ready"), [(0.5, True), (0.6, False)])
async def test_a_gateway_is_ready_with_part_of_the_shards_after_a_while(coverage: float, is_ready: bool) -> None:
    async with serving(ScriptedShard(0).handler()) as first:
        settings = GatewaySettings(shards=(first, "127.0.0.1:1"), refresh_s=0.05)
        gateway = build_gateway(settings, build_shards(settings))
        refreshing = asyncio.create_task(gateway.versions.keep_fresh())
        ready = asyncio.create_task(gateway.versions.until_ready(0.3, coverage))
        if is_ready:
            await asyncio.wait_for(ready, 30)
        else:
            await asyncio.sleep(0.6)
            assert not ready.done()
        assert gateway.versions.snapshot().serving == (True, False)
        for task in (ready, refreshing):
            task.cancel()
        await asyncio.gather(ready, refreshing, return_exceptions=True)
        await gateway.close()


async def test_changes_are_in_both_replicas_and_in_the_answers(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    build(first / "index", catalogue(20), {IMAGE: vectors_of(unit_vectors(20, 8))}, shards=SHARDS)
    shutil.copytree(first, second)
    async with live_shards(first) as one, live_shards(second) as other:
        joined = tuple(map("+".join, zip(one, other, strict=True)))
        both = {"shards": joined, "refresh_s": 0.05, "cache_staleness_s": 0.0}
        async with running_gateway(both) as address, aio_channel(address) as channel:
            catalog, similar = catalog_pb2_grpc.CatalogStub(channel), search_pb2_grpc.SimilarProductsStub(channel)
            vector = unit_vectors(1, 8, seed=3)[0].tobytes()
            search = SearchRequest(examples=[Example(vector=vector)], space=IMAGE, limit=3)
            assert "new" not in [hit.product.id for hit in (await similar.Search(search)).hits]
            product = Product(id="new", category="home")
            upsert = UpsertRequest(product=product, revision=9, vectors=[SpaceVector(space=IMAGE, vector=vector)])
            assert (await catalog.Upsert(upsert)).applied
            for _ in range(3):
                assert "new" in [hit.product.id for hit in (await similar.Search(search)).hits]
                await asyncio.sleep(0.1)  # It is polled meanwhile.
            assert (await catalog.Remove(RemoveRequest(product_id="p3", revision=9))).applied
            removed = (await catalog.Count(CountRequest())).count
        for replica in (one, other):
            alone = {"shards": replica, "refresh_s": 0.05}
            async with running_gateway(alone) as address, aio_channel(address) as channel:
                catalog = catalog_pb2_grpc.CatalogStub(channel)
                assert (await catalog.Get(GetRequest(product_id="new"))).product.category == "home"
                assert (await catalog.Count(CountRequest())).count == removed == 20
