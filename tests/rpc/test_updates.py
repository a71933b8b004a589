"""Updates of a shard over gRPC."""

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
from index.live.live_shard import LiveLimits, LiveShard
from index.serving import compactor
from index.serving.service import IndexShard
from index.serving.shard_version import ShardVersion
from index.serving.slots import Slots
from index.serving.writer import MAX_UPDATES, Writer
from lookalike.channels import aio_channel
from lookalike.errors import BadArtifact, Overloaded
from lookalike.v1 import index_pb2, index_pb2_grpc
from lookalike.v1.index_pb2 import Update, UpdateResult
from lookalike.v1.types_pb2 import Product
from tests.rpc.gateways import serving
from tests.unit.index.live_samples import COUNT, build_version, open_live, remove, upsert
from tests.unit.index.samples import IMAGE, query_vector, serving_only

if TYPE_CHECKING:
    from lookalike.v1.index_pb2_grpc import IndexShardAsyncStub as Stub  # In the stubs' types only.


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    return build_version(tmp_path_factory.mktemp("index"))


@pytest.fixture
def live(shard: ShardVersion, tmp_path: Path) -> LiveShard:
    return open_live(shard, tmp_path, LiveLimits(delta_rows=16, changes=1000))


@pytest_asyncio.fixture
async def stub(shard: ShardVersion, live: LiveShard) -> AsyncIterator[Stub]:
    served, slots = serving_only(shard.with_live(live)), Slots(threads=2, max_waiting=64)
    writer = Writer(served, max_waiting=64)
    async with serving(IndexShard(slots, served, writer).handler()) as address, aio_channel(address) as channel:
        yield index_pb2_grpc.IndexShardStub(channel)
    writer.close()
    slots.close()
    live.close()


@pytest.fixture
def version(shard: ShardVersion) -> str:
    return shard.manifest.version


def apply_request(version: str, *updates: Update) -> index_pb2.ApplyRequest:
    return index_pb2.ApplyRequest(version=version, updates=updates)


async def test_an_acknowledged_update_is_in_every_later_response(stub: Stub, version: str) -> None:
    new = upsert("new", 7)
    response = await stub.Apply(apply_request(version, new, remove("p3", 1), upsert("new", 7)))
    assert [result.outcome for result in response.results] == [
        UpdateResult.APPLIED,
        UpdateResult.APPLIED,
        UpdateResult.STALE,
    ]
    assert response.sequence == 2
    vector = np.frombuffer(new.upsert.vectors[0].vector, "<f4")
    query = index_pb2.ShardQuery(vectors=[query_vector(IMAGE, vector / np.linalg.norm(vector))], k=1, max_per_shop=1)
    (hits,) = (await stub.Search(index_pb2.ShardSearchRequest(version=version, queries=[query]))).results
    assert (list(hits.ids), list(hits.shops)) == (["new"], ["shop 1"])
    fetched = (await stub.Fetch(index_pb2.FetchRequest(version=version, ids=["new", "p3"], descriptions=True))).products
    stored = Product(revision=new.revision)
    stored.MergeFrom(new.upsert.product)
    assert Product.FromString(fetched[0].product) == stored
    assert not fetched[1].HasField("product")
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT
    (description,) = (await stub.Describe(index_pb2.DescribeRequest())).versions
    assert (description.documents, description.sequence) == (COUNT, 2)
    assert [(space.live, list(space.documents)) for space in description.spaces] == [(COUNT, [COUNT]), (31, [30])]
    figures = description.live
    assert (figures.delta_rows, figures.superseded_rows, figures.tombstones) == (1, 1, 1)


async def test_updates_that_arrive_during_a_write_are_written_together(
    stub: Stub, version: str, live: LiveShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    gate, first = threading.Event(), threading.Event()
    apply = live.apply

    def blocked_apply(updates: list[Update]) -> list[UpdateResult]:
        groups.append(len(updates))
        first.set()
        gate.wait()
        return apply(updates)

    monkeypatch.setattr(live, "apply", blocked_apply)
    calls = [asyncio.ensure_future(stub.Apply(apply_request(version, upsert("one", 1))))]
    await asyncio.to_thread(first.wait)
    calls += [asyncio.ensure_future(stub.Apply(apply_request(version, upsert(f"new {i}", 1)))) for i in range(9)]
    await stub.Describe(index_pb2.DescribeRequest())  # All of them have arrived.
    gate.set()
    responses = await asyncio.gather(*calls)
    assert groups == [1, 9]
    assert [len(response.results) for response in responses] == [1] * 10


async def test_a_compaction_runs_while_updates_arrive(stub: Stub, version: str, live: LiveShard) -> None:
    for revision in range(1, 30):
        await stub.Apply(apply_request(version, *[upsert(f"p{i}", revision + 9) for i in range(4)]))
    while live.compaction_due:  # noqa: ASYNC110  # a thread's doing
        await asyncio.sleep(0.01)
    assert live.compactions
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BadArtifact("segment-000002: damaged")])
async def test_a_failed_compaction_is_counted_and_retried(
    stub: Stub, version: str, live: LiveShard, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write, attempts = compaction.write, list[Path]()

    def fail_once(directory: Path, *arguments: Any, **named: Any) -> None:
        attempts.append(directory)
        if len(attempts) == 1:
            raise error
        write(directory, *arguments, **named)

    monkeypatch.setattr(compaction, "write", fail_once)
    monkeypatch.setattr(compactor, "RETRY_S", 0)
    failures = REGISTRY.get_sample_value("lookalike_shard_compaction_failures_total") or 0
    revision = 0
    while not live.compactions:
        revision += 1
        await stub.Apply(apply_request(version, *[upsert(f"p{i}", revision) for i in range(4)]))
        await asyncio.sleep(0.01)
    assert REGISTRY.get_sample_value("lookalike_shard_compaction_failures_total") == failures + 1
    assert len(attempts) > 1
    assert (await stub.Count(index_pb2.ShardCountRequest(version=version))).count == COUNT


async def code_of(call: grpc.aio.UnaryUnaryCall[index_pb2.ApplyRequest, index_pb2.ApplyResponse]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


async def test_an_update_that_cannot_be_written_is_refused_with_the_reason(
    stub: Stub, version: str, live: LiveShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_many = apply_request(version, *[remove("p1", 1)] * (MAX_UPDATES + 1))
    assert await code_of(stub.Apply(too_many)) is grpc.StatusCode.INVALID_ARGUMENT
    assert await code_of(stub.Apply(apply_request("another"))) is grpc.StatusCode.FAILED_PRECONDITION

    def fail(updates: list[Update]) -> list[UpdateResult]:
        raise Overloaded("the update could not be logged: No space left on device")

    monkeypatch.setattr(live, "apply", fail)
    with pytest.raises(grpc.aio.AioRpcError, match="No space left on device") as error:
        await stub.Apply(apply_request(version, remove("p1", 1)))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_shard_without_a_live_dir_takes_no_updates(shard: ShardVersion, version: str) -> None:
    served, slots = serving_only(shard), Slots(threads=1, max_waiting=1)
    writer = Writer(served, max_waiting=8)
    async with serving(IndexShard(slots, served, writer).handler()) as address, aio_channel(address) as channel:
        call = index_pb2_grpc.IndexShardStub(channel).Apply(apply_request(version, remove("p1", 1)))
        with pytest.raises(grpc.aio.AioRpcError, match="without --live-dir"):
            await call
    writer.close()
    slots.close()
