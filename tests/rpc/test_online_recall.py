"""Online recall of real shards behind a real gateway: as measured offline, of one state, and stated where it is low."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from prometheus_client import REGISTRY

from index.building.build import IndexOptions, build
from index.live.live_shard import LiveLimits, LiveShard
from index.search.space import SpaceIndex
from index.serving.exact_searches import ExactSearches
from index.serving.service import IndexShard
from index.serving.shard_version import ShardVersion, open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.runtime.deadline import Deadline
from lookalike.shard_query import ShardQuery
from lookalike.v1 import index_pb2, search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack
from server.recall_estimate import MIN_SAMPLES
from tests.rpc.gateways import running_gateway, serving
from tests.rpc.test_cost_classes import Gate, reached
from tests.unit.index.samples import IMAGE, catalogue, clustered, serving_only, vectors_of

if TYPE_CHECKING:
    from lookalike.v1.search_pb2_grpc import SimilarProductsAsyncStub  # In the stubs' types only.

COUNT, DIM, SHARDS = 6000, 32, 2
DRAWN = clustered(COUNT + MIN_SAMPLES + 10, DIM)
VECTORS, QUERIES = DRAWN[:COUNT], DRAWN[COUNT:]  # The index does not hold the queries.
BATCH = 15  # As many as wait at once, so that none is dropped.


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("index")
    build(where, catalogue(COUNT), {IMAGE: vectors_of(VECTORS)}, shards=SHARDS, options=IndexOptions(recipe="HNSW4"))
    return where


class System(NamedTuple):
    shards: list[ShardVersion]
    search: SimilarProductsAsyncStub

    def gauge(self, name: str) -> float:
        labels = {"version": self.shards[0].manifest.version, "space": "image"}
        value = REGISTRY.get_sample_value(name, labels)
        assert value is not None, name
        return value

    async def ask(self, vector: F32, *, exact: bool = False) -> SearchResponse:
        request = SearchRequest(examples=[Example(vector=pack(vector))], space=SPACE_IMAGE, exact=exact)
        response: SearchResponse = await self.search.Search(request, timeout=60)
        return response

    async def compare_all(self) -> None:
        compared = compared_before = compared_count()
        for start in range(0, len(QUERIES), BATCH):
            batch = QUERIES[start : start + BATCH]
            await asyncio.gather(*(self.ask(query) for query in batch))
            compared += len(batch)
            async with asyncio.timeout(60):
                while compared_count() < compared:  # noqa: ASYNC110  # No event follows a counter.
                    await asyncio.sleep(0.002)
        assert compared_count() - compared_before == len(QUERIES)


def offline_recall(shards: Sequence[SpaceIndex]) -> float:
    """recall@10 of the shards together, over all queries."""
    approximate, exact = (
        np.sort(np.hstack([[n.scores for n in shard.search(QUERIES, 10, exact=exact)] for shard in shards]))[:, -10:]
        for exact in (False, True)
    )
    return float((approximate >= exact[:, :1] - 1e-6).mean())


def compared_count() -> float:
    return REGISTRY.get_sample_value("lookalike_recall_samples_total", {"outcome": "compared"}) or 0.0


@asynccontextmanager
async def running(location: Path, *, poor: bool, ordinary_components: float) -> AsyncIterator[System]:
    """poor: the shards search less than the build found to be needed."""
    slots, shards = Slots(threads=1, max_waiting=64), [open_shard(location, number) for number in range(SHARDS)]
    for shard in shards if poor else ():
        space = shard.base.spaces[IMAGE]
        points = [replace(point, search_parameter=1, refine_factor=1) for point in space.entry.operating_points]
        space.entry = replace(space.entry, operating_points=tuple(points))
    services = []
    for shard in shards:
        served = serving_only(shard)
        writer = Writer(served, max_waiting=8)
        services.append(IndexShard(slots, served, writer, ordinary_components=ordinary_components))
    async with (
        serving(services[0].handler()) as first,
        serving(services[1].handler()) as second,
        running_gateway({"shards": (first, second), "recall_sample": 1.0, "recall_cpu_share": 16.0}) as address,
        aio_channel(address) as channel,
    ):
        yield System(shards, search_pb2_grpc.SimilarProductsStub(channel))
    slots.close()


@pytest.mark.parametrize("poor", [False, True])
async def test_recall_is_that_measured_offline_and_a_fall_below_the_promise_is_stated_in_answers(
    location: Path, poor: bool
) -> None:
    # Exact searches are in the class `exact`, as in large shards, whose CPU the shards tell.
    async with running(location, poor=poor, ordinary_components=COUNT * DIM // 8) as system:
        await system.compare_all()
        offline = offline_recall([shard.base.spaces[IMAGE] for shard in system.shards])
        assert system.gauge("lookalike_recall_at_10_lower") <= offline <= system.gauge("lookalike_recall_at_10_upper")
        promised = system.shards[0].manifest.spaces[0].recall_at_10
        assert promised is not None
        assert system.gauge("lookalike_recall_promised") == pytest.approx(promised.recall)
        share = system.gauge("lookalike_recall_found_total") / system.gauge("lookalike_recall_expected_total")
        assert system.gauge("lookalike_recall_at_10") == pytest.approx(share)
        assert system.gauge("lookalike_recall_short") == poor
        degraded = (await system.ask(VECTORS[0])).provenance.degraded  # Not answered from the cache.
        assert len(degraded) == poor
        assert all(
            "searches of the image space find" in reason and "the build promised" in reason for reason in degraded
        )
        assert not (await system.ask(VECTORS[0], exact=True)).provenance.degraded


async def test_a_shard_tells_the_cpu_of_exact_searches_that_share_passes_and_of_no_others(location: Path) -> None:
    shard, slots = open_shard(location, 0), Slots(threads=1, max_waiting=8)
    served = serving_only(shard)
    queries = [ShardQuery({SPACE_IMAGE: QUERIES[0]}, (1.0,), b"", 10, exact, explain=False) for exact in (False, True)]
    costs = []
    for components in (COUNT * DIM // 8, COUNT * DIM):
        service = IndexShard(slots, served, Writer(served, max_waiting=8), ordinary_components=components)
        answers = await service.search(shard.manifest.version, queries, Deadline.after(60))
        costs.append([answer.cpu_s > 0 for answer in answers])
    slots.close()
    assert costs == [[False, True], [False, False]]


async def test_a_search_and_its_exact_twin_are_of_one_state_whatever_changes_meanwhile(
    location: Path, tmp_path: Path
) -> None:
    gate, base = Gate(), open_shard(location, 0)
    exact = ExactSearches(max_searches=8, before_block=gate)
    slots = Slots(threads=1, max_waiting=8, exact=exact)
    live = LiveShard(base.base, base.manifest, 0, tmp_path, LiveLimits(delta_rows=64, changes=1000))
    shard = base.with_live(live)
    served = serving_only(shard)
    writer = Writer(served, max_waiting=8)
    service = IndexShard(slots, served, writer, ordinary_components=COUNT * DIM // 8)
    space = base.base.spaces[IMAGE]
    vector, version = space.vector(int(space.rows[0])), base.manifest.version
    assert vector is not None
    queries = [ShardQuery({SPACE_IMAGE: vector}, (1.0,), b"", 10, exact, explain=False) for exact in (False, True)]
    gate.close()
    call = asyncio.ensure_future(service.search(version, queries, Deadline.after(60)))
    await reached(gate)
    (nearest,) = (await service.search(version, [queries[0]._replace(k=1)], Deadline.after(60)))[0].ids
    updates = [index_pb2.Update(revision=1, remove=nearest)]
    await service.apply(index_pb2.ApplyRequest(version=version, updates=updates), Deadline.after(60))
    gate.open()
    approximate, exactly = await call
    (after,) = await service.search(version, [queries[0]], Deadline.after(60))
    assert nearest not in after.ids
    assert approximate.ids[0] == exactly.ids[0] == nearest
    writer.close()
    live.close()
    slots.close()
