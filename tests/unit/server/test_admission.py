"""Admission control: no handler runs without a permit; permits are bounded and released when the call ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from math import inf
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from lookalike.errors import InvalidRequest, Overloaded
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1.catalog_pb2 import CountRequest, ExistsRequest, GetRequest, ListRequest
from server.admission import Admission, Permit
from server.catalog import CatalogReader
from server.metrics import RequestTimer

NEVER = Deadline.after(None)
PARENT_S = 30.0  # No test waits that long.


def refused_calls(method: str) -> float:
    """How many calls of the method the request histogram counts as refused."""
    labels = {"method": method, "space": "", "outcome": "RESOURCE_EXHAUSTED", "cached": "false"}
    return REGISTRY.get_sample_value("lookalike_request_seconds_count", labels) or 0.0


class Handlers:
    """A unary and a streaming handler that wait for a gate and record their permits."""

    def __init__(self, max_inflight: int) -> None:
        self.permits: list[Permit] = []
        self.gate = asyncio.Event()
        self.admission = Admission(max_inflight)
        self.methods = self.admission.admit({"Unary": self.unary}, streams={"Stream": self.stream})

    async def unary(self, request: bytes, deadline: Deadline, permit: Permit) -> bytes:
        self.permits.append(permit)
        await self.gate.wait()
        if request == b"malformed":
            raise InvalidRequest("request", "is malformed")
        return request

    async def stream(self, request: bytes, deadline: Deadline, permit: Permit) -> AsyncGenerator[bytes, None]:
        self.permits.append(permit)
        yield request
        await self.gate.wait()
        yield request

    async def call(self, request: bytes = b"x") -> object:
        return await cast(edge.Unary, self.methods["Unary"])(request, NEVER)

    def open(self) -> AsyncIterator[Any]:
        return cast(edge.Streaming, self.methods["Stream"])(b"x", NEVER)


async def test_a_handler_cannot_be_called_without_a_permit() -> None:
    reader: Any = CatalogReader(cast(Any, None), cast(Any, None), 1.0)
    for handler, request in (
        (reader.get, GetRequest()),
        (reader.exists, ExistsRequest()),
        (reader.count, CountRequest()),
    ):
        with pytest.raises(TypeError, match="permit"):
            await handler(request, NEVER)
    with pytest.raises(TypeError, match="permit"):
        reader.list(ListRequest(), NEVER)


async def test_every_call_gets_a_permit_of_its_own() -> None:
    handlers = Handlers(max_inflight=2)
    handlers.gate.set()
    assert [*await asyncio.gather(handlers.call(b"a"), handlers.call(b"b"))] == [b"a", b"b"]
    assert [reply async for reply in handlers.open()] == [b"x", b"x"]
    assert len({id(permit.timer) for permit in handlers.permits}) == 3


async def test_unary_calls_and_streams_share_one_limit() -> None:
    handlers = Handlers(max_inflight=2)
    unary, stream = asyncio.create_task(handlers.call()), handlers.open()
    await asyncio.sleep(0)  # The task has its permit now.
    assert await anext(stream) == b"x"
    refused_before = refused_calls("Unary"), refused_calls("Stream")
    with pytest.raises(Overloaded, match="2 calls are in flight, the limit is 2"):
        await handlers.call()
    with pytest.raises(Overloaded):
        await anext(handlers.open())
    assert (refused_calls("Unary"), refused_calls("Stream")) == (refused_before[0] + 1, refused_before[1] + 1)
    assert REGISTRY.get_sample_value("lookalike_requests_inflight") == 2
    assert len(handlers.permits) == 2
    handlers.gate.set()
    assert await unary == b"x"
    assert [reply async for reply in stream] == [b"x"]
    assert REGISTRY.get_sample_value("lookalike_requests_inflight") == 0


def timed_calls(space: str) -> float:
    labels = {"method": "Unary", "space": space, "outcome": "OK", "cached": "true"}
    return REGISTRY.get_sample_value("lookalike_request_seconds_count", labels) or 0.0


async def test_what_needs_no_waiting_is_answered_and_timed_at_once_unless_all_permits_are_taken() -> None:
    def look_up(request: bytes, timer: RequestTimer) -> bytes | None:
        timer.space, timer.cached = "at once", True
        return b"known" if request == b"x" else None

    handlers = Handlers(max_inflight=1)
    admit = handlers.admission.admit({"Unary": handlers.unary}, at_once={"Unary": look_up})
    unary = admit["Unary"]
    assert isinstance(unary, edge.ThreadedUnary)
    before = timed_calls("at once")
    assert unary.submit(b"x", NEVER) == b"known"
    assert unary.submit(b"y", NEVER) is None
    assert timed_calls("at once") == before + 1
    assert handlers.permits == []
    waiting = asyncio.ensure_future(unary(b"y", NEVER))
    await asyncio.sleep(0)
    assert len(handlers.permits) == 1
    assert unary.submit(b"x", NEVER) is None
    with pytest.raises(Overloaded):
        await unary(b"x", NEVER)
    handlers.gate.set()
    assert await waiting == b"y"


class Searches:
    """A measured handler that takes `took_s` and counts as a search."""

    def __init__(self, *, max_bytes: float = inf) -> None:
        self.admission, self.took_s, self.gate = Admission(64, max_bytes=max_bytes), 0.0, asyncio.Event()
        self.gate.set()
        methods = self.admission.admit({"Search": self.search}, measured={"Search"})
        self.call = cast(edge.Unary, methods["Search"])

    async def search(self, request: bytes, deadline: Deadline, permit: Permit) -> bytes:
        await self.gate.wait()
        permit.timer.record("search", self.took_s)
        await asyncio.sleep(self.took_s)
        return request


async def test_a_call_that_cannot_end_before_its_deadline_is_refused_at_once() -> None:
    searches = Searches()
    searches.took_s = 0.05
    soon = Deadline.after(PARENT_S)
    for _ in range(50):  # One after the other, so that a window is over.
        await asyncio.gather(*(searches.call(b"x", soon) for _ in range(2)))
    with pytest.raises(Overloaded, match="and more now, the deadline is in"):
        await searches.call(b"x", Deadline.after(0.02))
    assert await searches.call(b"x", soon) == b"x"


async def test_bytes_in_flight_are_bounded_and_one_large_request_is_admitted_alone() -> None:
    searches = Searches(max_bytes=100)
    searches.gate.clear()
    first = asyncio.create_task(asyncio.wait_for(searches.call(b"x" * 60, NEVER), PARENT_S))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="60 bytes of requests are in flight, the limit is 100"):
        await searches.call(b"x" * 41, NEVER)
    second = asyncio.create_task(asyncio.wait_for(searches.call(b"x" * 40, NEVER), PARENT_S))
    await asyncio.sleep(0)
    searches.gate.set()
    assert [len(cast(bytes, each)) for each in await asyncio.gather(first, second)] == [60, 40]
    assert len(cast(bytes, await searches.call(b"x" * 200, NEVER))) == 200
    assert REGISTRY.get_sample_value("lookalike_request_bytes_inflight") == 0


async def test_a_stream_holds_its_permit_until_it_ends() -> None:
    handlers = Handlers(max_inflight=1)
    stream = handlers.open()
    assert await anext(stream) == b"x"
    with pytest.raises(Overloaded):
        await handlers.call()
    handlers.gate.set()
    assert await anext(stream) == b"x"
    with pytest.raises(Overloaded):
        await handlers.call()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert await handlers.call() == b"x"


async def test_a_call_that_fails_or_is_cancelled_releases_its_permit() -> None:
    handlers = Handlers(max_inflight=1)
    waiting = asyncio.create_task(handlers.call())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    stream = cast(AsyncGenerator[bytes, None], handlers.open())
    await anext(stream)
    await stream.aclose()
    handlers.gate.set()
    with pytest.raises(InvalidRequest):
        await handlers.call(b"malformed")
    assert await handlers.call() == b"x"
