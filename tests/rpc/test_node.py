"""A node over a real gRPC edge: as a whole it is a gateway with its shards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import REGISTRY

from index.building.build import SpaceVectors, build
from index.serving import loader
from index.serving.shard_search import ShardSearch
from index.serving.shard_version import ShardVersion
from lookalike.channels import aio_channel
from lookalike.errors import BadSettings
from lookalike.local import probes
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.runtime import lifecycle
from lookalike.shard_query import ShardQuery
from lookalike.v1 import index_pb2, search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE
from node import app
from node.settings import NodeSettings
from server.app import Gateway
from tests.contract.test_shards import REQUESTS, location, real_shards, without_version_and_timings
from tests.rpc import test_handover
from tests.rpc.gateways import (
    ScriptedModelServer,
    ScriptedProductEncoder,
    ScriptedTextEncoder,
    scripted_system,
    serving,
)
from tests.rpc.test_swap import COUNT, DIM, Callers, build_version, until
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

__all__ = ["location"]  # A fixture.

SECONDS = 60.0


class Node(NamedTuple):
    address: str
    gateway: Gateway

    async def versions(self) -> list[list[str]]:
        """Those that each shard serves, the current one first."""
        return [[state.version for state in shard.versions] for shard in await self.describe()]

    async def describe(self) -> list[index_pb2.DescribeResponse]:
        return [shard for shard in await self.gateway.shards.describe("") if shard is not None]


@asynccontextmanager
async def a_node(where: Path, **settings: Any) -> AsyncIterator[Node]:
    """A ready node."""
    values = {"poll_s": 0.05, "refresh_s": 0.05, "lease_s": 4.0, "cache_ttl_s": 0.0, **settings}
    node_settings = NodeSettings(location=str(where), **values)
    async with app.open_node(node_settings) as (gateway, shards), AsyncExitStack() as background:
        await asyncio.gather(*(shard.rollout.start() for shard in shards))
        for shard in shards:
            await background.enter_async_context(lifecycle.background_task(shard.rollout.watch(node_settings.poll_s)))
        await background.enter_async_context(lifecycle.background_task(gateway.versions.keep_fresh()))
        await gateway.versions.until_complete()
        yield Node(await background.enter_async_context(serving(*gateway.handlers)), gateway)


@asynccontextmanager
async def a_node_with_encoders(where: Path) -> AsyncIterator[Node]:
    texts, products, photos = ScriptedTextEncoder(), ScriptedProductEncoder(), ScriptedModelServer()
    async with (
        serving(texts.handler(), products.handler()) as text_encoder,
        serving(photos.handler()) as model_server,
        a_node(where, text_encoder=(text_encoder,), model_server=model_server) as node,
    ):
        yield node


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def search(address: str, request: SearchRequest) -> SearchResponse:
    async with aio_channel(address) as channel:
        response: SearchResponse = await search_pb2_grpc.SimilarProductsStub(channel).Search(request)
        return response


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_a_node_answers_as_a_gateway_with_remote_shards(location: Path, request_: SearchRequest) -> None:
    async with (
        real_shards(location) as addresses,
        scripted_system(shards=addresses) as system,
        a_node_with_encoders(location) as node,
    ):
        expected = without_version_and_timings(await system.search.Search(request_))
        assert without_version_and_timings(await search(node.address, request_)) == expected


async def test_an_answer_without_a_shard_says_so_as_that_of_a_gateway_with_remote_shards(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ShardVersion.start_search

    def start_at_first_shard(shard: ShardVersion, queries: Sequence[ShardQuery | ValueError]) -> ShardSearch:
        if shard.shard == 1:
            raise RuntimeError("a bug")
        return start(shard, queries)

    request = REQUESTS["a late fusion of two"]
    async with (
        real_shards(location) as addresses,
        scripted_system(shards=addresses) as system,
        a_node_with_encoders(location) as node,
    ):
        monkeypatch.setattr(ShardVersion, "start_search", start_at_first_shard)
        expected = without_version_and_timings(await system.search.Search(request))
        response = without_version_and_timings(await search(node.address, request))
    assert [*response.provenance.degraded] == ["shard 1: internal error; see the server's log"]
    assert response == expected
    assert response.hits
    assert 0 < response.provenance.coverage < 1
    assert response.provenance.shards_answered == 1


@pytest.mark.slow
async def test_versions_change_under_load_without_a_failed_partial_or_mixed_response(tmp_path: Path) -> None:
    names = [build_version(tmp_path, "version 0")]
    async with a_node(tmp_path) as node:
        callers = Callers(node.address)
        calling = asyncio.gather(*(callers.search(number) for number in range(8)), callers.list(), callers.list())
        for change in range(1, 3):
            await until(lambda: callers.searches[names[-1]] >= 100, calling)
            names.append(await asyncio.to_thread(build_version, tmp_path, f"version {change}"))
        await until(lambda: callers.searches[names[-1]] >= 100, calling)
        while await node.versions() != [[names[-1]]] * 2:
            assert not calling.done()
            await asyncio.sleep(0.05)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert callers.coverages == {1.0}
    assert callers.titles == {name: {f"version {i}"} for i, name in enumerate(names)}
    assert {length for length, _ in callers.lists} == {COUNT}
    assert all(len(titles) == 1 for _, titles in callers.lists)


async def test_changes_follow_their_products_to_a_version_of_another_number_of_shards_of_a_node(tmp_path: Path) -> None:
    two, three = (test_handover.build_version(tmp_path / "index", seed, shards) for seed, shards in enumerate((2, 3)))
    version.make_current(tmp_path / "index", two)
    async with a_node(tmp_path / "index", live_dir=tmp_path / "live") as node, aio_channel(node.address) as channel:
        shop = test_handover.Shop(channel)
        working = [asyncio.create_task(work()) for work in (shop.change, shop.search)]
        for name in (three, two):
            await test_handover.move(shop, tmp_path, name, *working)
        shop.closes = True
        await asyncio.gather(*working)
        assert await shop.contradictions() == []
        assert shop.coverage == {1.0}


async def test_a_version_with_more_shards_than_a_node_has_is_refused_by_name_and_the_old_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = build_version(tmp_path, "old")
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM))}
    async with a_node(tmp_path, max_shards=3) as node:

        async def all_refuse() -> bool:
            refusals = [shard.refusal for shard in await node.describe()]
            return all(refusals)

        async def none_refuses() -> bool:
            refusals = [shard.refusal for shard in await node.describe()]
            return not any(refusals)

        new = await asyncio.to_thread(build, tmp_path, catalogue(COUNT), spaces, shards=4)
        await eventually(all_refuse)
        reason = f"version {new}: {tmp_path}: it has 4 shards, this process serves at most 3"
        assert [shard.refusal for shard in await node.describe()] == [reason] * 2
        assert await node.versions() == [[old]] * 2
        request = SearchRequest(examples=[Example(product_id="p7")], space=SPACE_IMAGE)
        provenance = (await search(node.address, request)).provenance
        assert (provenance.version, provenance.coverage) == (old, 1.0)
        version.make_current(tmp_path, old)
        await eventually(none_refuses)
    assert f"the loaded versions serve on: {reason}" in [record.getMessage() for record in caplog.records]


async def test_a_node_is_ready_once_warm_and_at_sigterm_ends_the_calls_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    build_version(tmp_path, "old")
    warm, begun, proceed = threading.Event(), threading.Event(), threading.Event()
    warm_up, start = loader._warm_up, ShardVersion.start_search

    def slow_warm_up(shard: ShardVersion) -> None:
        assert warm.wait(SECONDS)
        warm_up(shard)

    def slow_start(shard: ShardVersion, queries: Sequence[ShardQuery | ValueError]) -> ShardSearch:
        begun.set()
        assert proceed.wait(SECONDS)
        return start(shard, queries)

    monkeypatch.setattr(loader, "_warm_up", slow_warm_up)
    (port,) = probes.free_ports(1)
    address = f"127.0.0.1:{port}"
    settings = NodeSettings(location=str(tmp_path), port=port, drain_s=SECONDS, shard_timeout_s=SECONDS)
    serving_ = asyncio.create_task(app.serve(settings))
    request = SearchRequest(examples=[Example(product_id="p7")], space=SPACE_IMAGE)
    await until(lambda: any(line.startswith("listening on") for line in caplog.messages), serving_)
    assert not await asyncio.to_thread(probes.is_serving, address)
    warm.set()
    await until(lambda: "ready" in caplog.messages, serving_)
    assert await asyncio.to_thread(probes.is_serving, address)
    monkeypatch.setattr(ShardVersion, "start_search", slow_start)
    call = asyncio.create_task(search(address, request))
    await until(begun.is_set, serving_)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: any(line.startswith("draining") for line in caplog.messages), serving_)
    proceed.set()
    response = await call
    await serving_
    assert (len(response.hits), response.provenance.coverage) == (10, 1.0)


async def test_the_gauges_of_the_metrics_are_by_shard(tmp_path: Path) -> None:
    name = build_version(tmp_path, "old")
    manifest = Directory(tmp_path).read_manifest(name)
    async with a_node(tmp_path) as node:
        request = SearchRequest(examples=[Example(product_id="p7")], space=SPACE_IMAGE)
        before = REGISTRY.get_sample_value("lookalike_shard_queries_total", {"outcome": "ok"}) or 0
        await search(node.address, request)
        assert REGISTRY.get_sample_value("lookalike_shard_queries_total", {"outcome": "ok"}) == before + 2
    (space,) = manifest.spaces
    for shard in range(2):
        labels = {"shard": str(shard)}
        assert REGISTRY.get_sample_value("lookalike_shard_versions", labels) == 1
        vectors = REGISTRY.get_sample_value("lookalike_shard_vectors", {**labels, "space": "image"})
        assert vectors == space.documents[shard]
    assert REGISTRY.get_sample_value("lookalike_requests_inflight") == 0


def test_the_settings_of_a_node_are_those_of_a_gateway_and_of_shards(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"LOOKALIKE_NODE_LOCATION": "/index", "LOOKALIKE_NODE_SHARD_BATCH": "8", "LOOKALIKE_GATEWAY_X": "other"}
    with pytest.raises(SystemExit) as ended:
        app.main(["--threads", "3", "--check-config"], environ)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"LOOKALIKE_NODE_LOCATION=/index", "LOOKALIKE_NODE_SHARD_BATCH=8", "LOOKALIKE_NODE_THREADS=3"} < {*lines}
    assert all(line.startswith("LOOKALIKE_NODE_") for line in lines)


@pytest.mark.parametrize("name", ["LOOKALIKE_NODE_SHARDS", "LOOKALIKE_NODE_SHARD", "LOOKALIKE_NODE_PLACE"])
def test_an_unknown_variable_of_a_node_is_refused(name: str) -> None:
    with pytest.raises(BadSettings, match=f"{name}: no such setting"):
        app.main(["--check-config"], {name: "1"})


def test_a_node_without_a_location_says_what_is_missing() -> None:
    with pytest.raises(BadSettings, match="--location is missing"):
        app.main([], {})
