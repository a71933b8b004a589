"""Updates of a shard over the wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from index.live import compaction
from index.live.live import Bounds, Live
from index.serving import writer
from index.serving.loaded import LoadedShard
from index.serving.pool import Pool
from index.serving.service import IndexShard
from index.serving.writer import MAX_UPDATES, Writer
from lookalike.channels import aio_channel
from lookalike.errors import BadArtifact, Overloaded
from lookalike.v1 import index_pb2, index_pb2_grpc
from lookalike.v1.index_pb2 import Update, UpdateResult
from tests.rpc.gateways import serving
from tests.unit.index.live_samples import COUNT, built, live, remove, upsert
from tests.unit.index.samples import IMAGE, by, serving_only

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> LoadedShard:
    return built(tmp_path_factory.mktemp("index"))


@pytest.fixture
def state(shard: LoadedShard, tmp_path: Path) -> Live:
    return live(shard, tmp_path, Bounds(delta_rows=16, changes=1000))


@pytest_asyncio.fixture
async def stub(shard: LoadedShard, state: Live) -> AsyncIterator[Stub]:
    served, pool = serving_only(shard.taking(state)), Pool(threads=2, max_waiting=64)
    writes = Writer(served, max_waiting=64)
    async with serving(IndexShard(pool, served, writes).handler()) as address, aio_channel(address) as channel:
        yield index_pb2_grpc.IndexShardStub(channel)
    writes.close()
    pool.close()
    state.close()


@pytest.fixture
def version(shard: LoadedShard) -> str:
    return shard.manifest.version


def applying(version: str, *updates: Update) -> index_pb2.ApplyRequest:
    return index_pb2.ApplyRequest(version=version, updates=updates)


async def test_an_acknowledged_update_is_in_every_later_answer(stub: Stub, version: str) -> None:
    given = upsert("new", 7)
    answer = await stub.Apply(applying(version, given, remove("p3", 1), upsert("new", 7)))
    assert [result.outcome for result in answer.results] == [
        UpdateResult.APPLIED,
        UpdateResult.APPLIED,
        UpdateResult.STALE,
    ]
    assert answer.sequence == 2
    vector = np.frombuffer(given.upsert.vectors[0].vector, "<f4")
    query = index_pb2.ShardQuery(vectors=[by(IMAGE, vector / np.linalg.norm(vector))], k=1, max_per_shop=1)
    (hits,) = (await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=[query]))).results
    assert (list(hits.ids), list(hits.shops)) == (["new"], ["shop 1"])
    fetched = (await stub.Fetch(index_pb2.FetchRequest(version=version, ids=["new", "p3"], descriptions=True))).products
    assert fetched[0].product == given.upsert.product
    assert not fetched[1].HasField("product")
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT
    (told,) = (await stub.Describe(index_pb2.DescribeRequest())).versions
    assert (told.documents, told.sequence) == (COUNT, 2)
    assert [(space.live, list(space.documents)) for space in told.spaces] == [(COUNT, [COUNT]), (31, [30])]
    assert (told.live.delta_rows, told.live.superseded_rows, told.live.tombstones) == (1, 1, 1)


async def test_updates_that_come_together_are_written_together(
    stub: Stub, version: str, state: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    gate, first = threading.Event(), threading.Event()
    apply = state.apply

    def held(updates: list[Update]) -> list[UpdateResult]:
        groups.append(len(updates))
        first.set()
        gate.wait()
        return apply(updates)

    monkeypatch.setattr(state, "apply", held)
    calls = [asyncio.ensure_future(stub.Apply(applying(version, upsert("one", 1))))]
    await asyncio.to_thread(first.wait)
    calls += [asyncio.ensure_future(stub.Apply(applying(version, upsert(f"new {i}", 1)))) for i in range(9)]
    await stub.Describe(index_pb2.DescribeRequest())  # They have all come.
    gate.set()
    answers = await asyncio.gather(*calls)
    assert groups == [1, 9]
    assert [len(answer.results) for answer in answers] == [1] * 10


async def test_enough_updates_are_compacted_while_others_come(stub: Stub, version: str, state: Live) -> None:
    for revision in range(1, 30):
        await stub.Apply(applying(version, *[upsert(f"p{i}", revision + 9) for i in range(4)]))
    while state.compaction_due:  # noqa: ASYNC110  # a thread's doing
        await asyncio.sleep(0.01)
    assert state.compactions
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BadArtifact("segment-000002: damaged")])
async def test_a_compaction_that_fails_is_counted_and_tried_again(
    stub: Stub, version: str, state: Live, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write, tried = compaction.write, list[Path]()

    def failing_once(directory: Path, *what: Any) -> None:
        tried.append(directory)
        if len(tried) == 1:
            raise error
        write(directory, *what)

    monkeypatch.setattr(compaction, "write", failing_once)
    monkeypatch.setattr(writer, "RETRY_S", 0)
    failures = REGISTRY.get_sample_value("lookalike_shard_compaction_failures_total") or 0
    revision = 0
    while not state.compactions:
        revision += 1
        await stub.Apply(applying(version, *[upsert(f"p{i}", revision) for i in range(4)]))
        await asyncio.sleep(0.01)
    assert REGISTRY.get_sample_value("lookalike_shard_compaction_failures_total") == failures + 1
    assert len(tried) > 1
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT


async def code_of(call: grpc.aio.UnaryUnaryCall[index_pb2.ApplyRequest, index_pb2.ApplyResponse]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


async def test_what_cannot_be_written_is_refused_with_its_reason(
    stub: Stub, version: str, state: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_many = applying(version, *[remove("p1", 1)] * (MAX_UPDATES + 1))
    assert await code_of(stub.Apply(too_many)) is grpc.StatusCode.INVALID_ARGUMENT
    assert await code_of(stub.Apply(applying("another"))) is grpc.StatusCode.FAILED_PRECONDITION

    def full(updates: list[Update]) -> list[UpdateResult]:
        raise Overloaded("the update could not be logged: No space left on device")

    monkeypatch.setattr(state, "apply", full)
    with pytest.raises(grpc.aio.AioRpcError, match="No space left on device") as error:
        await stub.Apply(applying(version, remove("p1", 1)))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_shard_without_a_place_for_updates_takes_none(shard: LoadedShard, version: str) -> None:
    served, pool = serving_only(shard), Pool(threads=1, max_waiting=1)
    writer = Writer(served, max_waiting=8)
    async with serving(IndexShard(pool, served, writer).handler()) as address, aio_channel(address) as channel:
        call = index_pb2_grpc.IndexShardStub(channel).Apply(applying(version, remove("p1", 1)))
        with pytest.raises(grpc.aio.AioRpcError, match="without --live-dir"):
            await call
    writer.close()
    pool.close()
