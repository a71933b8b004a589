"""Enqueue and Wait through a real gateway and a real Redis; a consumer in the test is the worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lookalike.changes import patch_change, remove_change, upsert_change
from lookalike.client import AsyncClient, Client
from lookalike.errors import (
    BadSettings,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    Overloaded,
    Unavailable,
)
from lookalike.stream.product_stream import ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.catalog_pb2 import (
    EVENT_STATE_DEAD,
    EVENT_STATE_PENDING,
    EVENT_STATE_SEARCHABLE,
    EVENT_STATE_UNSPECIFIED,
    AcceptedChange,
    Change,
    EnqueueRequest,
)
from lookalike.v1.types_pb2 import Product
from pipeline.gateway import Gateway
from pipeline.worker.change_writer import ChangeWriter
from pipeline.worker.event_handler import EventHandler
from pipeline.worker.worker import Worker, WorkerOptions
from server.app import build_gateway
from server.settings import GatewaySettings
from tests.contract.test_product_stream import only_consumer, take
from tests.redis_servers import RedisServer
from tests.rpc.gateways import scripted_system
from tests.rpc.spans import recorded_spans


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def client_of(server: RedisServer, **settings: Any) -> AsyncIterator[AsyncClient]:
    async with (
        scripted_system(stream=server.url, **settings) as system,
        AsyncClient(system.address, timeout_s=20) as client,
    ):
        yield client


@asynccontextmanager
async def stream_of(server: RedisServer) -> AsyncIterator[ProductStream]:
    stream = await open_redis_stream(StreamSettings(url=server.url, lease_s=60, heartbeat_s=0.05))
    try:
        yield stream
    finally:
        await stream.close()


def change_of(product_id: str, revision: int = 1, **fields: object) -> Change:
    product = Product(id=product_id, title="t", category="c", **fields)  # type: ignore[arg-type]  # fields of Product
    return upsert_change(product, revision=revision, encode=True)


def accepted_of(outcomes: object) -> list[AcceptedChange]:
    assert isinstance(outcomes, list)
    assert all(isinstance(each, AcceptedChange) for each in outcomes), outcomes
    return outcomes


async def test_an_enqueued_change_is_on_the_stream_and_searchable_when_a_worker_has_acked_it(
    server: RedisServer,
) -> None:
    changes = [change_of("p", image="http://example.com/p.jpg"), patch_change("q", revision=2, price=3.0)]
    async with client_of(server) as client, stream_of(server) as stream, only_consumer(stream) as worker:
        accepted = accepted_of(await client.enqueue([*changes, remove_change("r", revision=3)]))
        assert [each.revision for each in accepted] == [1, 2, 3]
        handles = [each.handle for each in accepted]
        records = await take(worker, 3)
        assert {str(record.handle) for record in records} == set(handles)
        assert {record.event.source for record in records} == {"enqueue"}
        (upserted,) = [each.event for each in records if each.event.change.HasField("upsert")]
        assert upserted.change.upsert.product.image == "http://example.com/p.jpg"
        assert [each.state for each in await client.wait(handles, wait_s=0)] == [EVENT_STATE_PENDING] * 3
        waiting = asyncio.create_task(client.wait(handles, wait_s=30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await worker.ack(records)
        assert [each.state for each in await waiting] == [EVENT_STATE_SEARCHABLE] * 3


async def test_the_blocking_client_enqueues_and_waits_as_well(server: RedisServer) -> None:
    def enqueue_and_wait(address: str) -> list[int]:
        with Client(address, timeout_s=20) as client:
            (accepted,) = accepted_of(client.enqueue([change_of("p")]))
            return [each.state for each in client.wait([accepted.handle], wait_s=0)]

    async with scripted_system(stream=server.url) as system:
        assert await asyncio.to_thread(enqueue_and_wait, system.address) == [EVENT_STATE_PENDING]


async def test_a_change_without_a_revision_has_the_time_at_the_gateway(server: RedisServer) -> None:
    async with client_of(server, revision_unit="s") as client:
        before = int(unix_time_s())
        (accepted,) = accepted_of(await client.enqueue([change_of("p", revision=0)]))
        assert before <= accepted.revision <= unix_time_s()
    async with client_of(server, revision_unit="none") as client:
        (outcome,) = await client.enqueue([change_of("p", revision=0)])
        assert isinstance(outcome, InvalidRequest)


async def test_changes_that_break_a_rule_have_their_error_and_the_others_are_accepted(server: RedisServer) -> None:
    photo = change_of("photo")
    photo.upsert.image = b"bytes"
    vector = change_of("vector")
    vector.upsert.vectors.add(vector=b"123")
    mask = patch_change("mask", revision=1, price=1.0)
    mask.patch.update_mask.paths.append("colour")
    bad = {
        "image": photo,
        "vectors": vector,
        "update_mask": mask,
        "product.category": upsert_change(Product(id="p"), revision=1),
        "product.id": change_of(""),
        "product_id": remove_change("x" * 300, revision=1),
        "revision": change_of("ahead", revision=1 << 62),
        "change": Change(),
    }
    async with client_of(server) as client, stream_of(server) as stream:
        outcomes = await client.enqueue([change_of("a"), *bad.values(), change_of("b")])
        errors = outcomes[1:-1]
        assert all(isinstance(error, InvalidRequest) for error in errors), errors
        assert [error.field for error in errors if isinstance(error, InvalidRequest)] == [*bad]
        assert isinstance(outcomes[0], AcceptedChange)
        assert isinstance(outcomes[-1], AcceptedChange)
        assert (await stream.status("workers")).events == 2


async def test_a_product_is_normalised_and_its_owner_told_as_in_a_live_call(server: RedisServer) -> None:
    async with client_of(server) as client, stream_of(server) as stream, only_consumer(stream) as worker:
        change = change_of("p", tags=["b", "a", "b"], currency="JPY")
        change.upsert.product.title = " " + "x" * 1200
        (accepted,) = accepted_of(await client.enqueue([change]))
        assert [*accepted.notices] == ["title: cut from 1200 to 1000 characters"]
        (record,) = await take(worker, 1)
        product = record.event.change.upsert.product
        assert ([*product.tags], product.title) == (["a", "b"], "x" * 1000)


async def test_a_dead_event_is_told_with_its_reason_and_one_of_another_stream_is_unknown(server: RedisServer) -> None:
    async with client_of(server) as client, stream_of(server) as stream, only_consumer(stream) as worker:
        (accepted,) = accepted_of(await client.enqueue([change_of("p")]))
        await worker.park((await take(worker, 1))[0], reason="the photo is gone: 404", attempts=3)
        (dead, unknown) = await client.wait([accepted.handle, "other.0.1-0"], wait_s=30)
        assert (dead.state, dead.reason) == (EVENT_STATE_DEAD, "the photo is gone: 404")
        assert unknown.state == EVENT_STATE_UNSPECIFIED


async def test_a_gateway_without_a_stream_says_so(server: RedisServer) -> None:
    async with scripted_system() as system, AsyncClient(system.address) as client:
        for call in (client.enqueue([change_of("p")]), client.wait(["a.0.1-0"])):
            with pytest.raises(FailedPrecondition, match="LOOKALIKE_GATEWAY_STREAM"):
                await call


async def test_a_request_out_of_bounds_is_refused_by_its_field(server: RedisServer) -> None:
    async with client_of(server) as client:
        for handles, wait_s, field in (
            ([], 0.0, "handles"),
            (["a.0.1-0"] * 1001, 0.0, "handles"),
            (["a.0.1-0", "nonsense"], 0.0, r"handles\[1\]"),
            (["a.0.1-0"], 61.0, "timeout_s"),
            (["a.0.1-0"], -1.0, "timeout_s"),
        ):
            with pytest.raises(InvalidRequest, match=f"^{field}"):
                await client.wait(handles, wait_s=wait_s, timeout_s=20)
        with pytest.raises(InvalidRequest, match="changes"):
            await client.enqueue([])


async def test_a_full_stream_is_resource_exhausted_and_says_when_to_retry(server: RedisServer) -> None:
    async with client_of(server, stream_max_events=3) as client:
        await client.enqueue([change_of("a"), change_of("b")])
        with pytest.raises(Overloaded, match="2 events of 3") as refused:
            await client.enqueue([change_of("c"), change_of("d")])
        assert refused.value.retry_after_s > 0
        accepted_of(await client.enqueue([change_of("c")]))


async def test_a_redis_that_is_down_fails_what_needs_it_and_is_used_when_it_is_back(server: RedisServer) -> None:
    server.kill()
    async with client_of(server) as client:
        with pytest.raises(Unavailable, match="the stream of product events is not available"):
            await client.enqueue([change_of("p")])
        assert await client.count() >= 0
        await asyncio.to_thread(server.start)
        (accepted,) = accepted_of(await client.enqueue([change_of("p")]))
        server.kill()
        with pytest.raises(Unavailable):
            await client.wait([accepted.handle], wait_s=0)
        await asyncio.to_thread(server.start)
        (found,) = await client.wait([accepted.handle], wait_s=0)
        assert found.state == EVENT_STATE_PENDING


async def test_a_redis_that_hangs_costs_the_caller_no_more_than_its_deadline(server: RedisServer) -> None:
    async with client_of(server) as client:
        await client.enqueue([change_of("p")])
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                await client.enqueue([change_of("p")], timeout_s=0.5)
        finally:
            server.signal(signal.SIGCONT)
        accepted_of(await client.enqueue([change_of("p")]))


async def test_a_gateway_does_not_start_with_a_stream_that_may_lose_events(redis_url: str) -> None:
    gateway = build_gateway(GatewaySettings(stream=redis_url), [])
    with pytest.raises(BadSettings, match="appendonly is no"):
        await gateway.enqueuer.start()
    await gateway.close()


async def test_waits_are_bounded_and_hold_no_permit(server: RedisServer) -> None:
    async with client_of(server, max_streams=2, max_inflight=1) as client:
        (accepted,) = accepted_of(await client.enqueue([change_of("p")]))
        waiting = {asyncio.create_task(client.wait([accepted.handle], wait_s=30)) for _ in range(4)}
        refused: set[asyncio.Task[object]] = set()
        while len(refused) < 2:
            done, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert done
            refused |= done
        assert all(isinstance(task.exception(), Overloaded) for task in refused)
        assert await client.count() >= 0
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_event_is_a_part_of_the_trace_of_the_call_that_enqueued_it(server: RedisServer) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    traced = (("traceparent", f"00-{trace}-{caller}-01"), ("x-request-id", "order-7"))
    async with (
        scripted_system(stream=server.url) as system,
        Gateway(system.address) as gateway,
        stream_of(server) as stream,
        recorded_spans() as spans,
    ):
        change = remove_change("p07", revision=1)
        await system.catalog.Enqueue(EnqueueRequest(changes=[change]), metadata=traced)
        handler, stopping = EventHandler(ChangeWriter(gateway.batch_write), None), asyncio.Event()
        worker = Worker(stream.consumer("workers", "w"), handler, WorkerOptions(), random=Random(0))
        working = asyncio.create_task(worker.run(stopping))
        async with asyncio.timeout(10):
            while not any(span.name == "ack events" for span in spans):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        stopping.set()
        await working
    names = {span.span_id: span.name.rpartition("/")[2] for span in spans if span.trace_id == trace}
    parents = {span.name.rpartition("/")[2]: names.get(span.parent_id) for span in spans if span.trace_id == trace}
    assert (parents["event"], parents["write changes"]) == ("Enqueue", "event")
    assert (parents["BatchWrite"], parents["apply changes"]) == ("write changes", "BatchWrite")
    assert parents["Apply"] == "call shard"
