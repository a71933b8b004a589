"""SearchStream through a real gateway: out of order, bounded, ended by its caller, from both clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from lookalike.client import AsyncClient, Client, SearchArguments
from lookalike.errors import DeadlineExceeded, InvalidRequest, LookalikeError, NotFound
from lookalike.limits import MAX_STREAM_AHEAD
from lookalike.v1.search_pb2 import Example, SearchRequest, SearchResponse, SearchStreamRequest
from lookalike.v1.types_pb2 import SPACE_TEXT
from lookalike.vectors import pack
from tests.rpc.gateways import VECTORS, break_searches_of_limit, calls_in_flight, scripted_system
from tests.rpc.model_servers import until

IDS = [f"p{number:02}" for number in range(20)]


def search_of(number: int) -> SearchRequest:
    return SearchRequest(examples=[Example(product_id=IDS[number % 20])], limit=1 + number % 5)


def by_vector(name: str) -> SearchRequest:
    return SearchRequest(examples=[Example(vector=pack(VECTORS[name, SPACE_TEXT]))], space=SPACE_TEXT)


async def numbered(*requests: SearchRequest) -> AsyncIterator[SearchStreamRequest]:
    for i, request in enumerate(requests):
        yield SearchStreamRequest(id=100 + i, request=request)


async def test_every_request_has_its_response_by_its_id() -> None:
    requests = [search_of(number) for number in range(300)]
    async with scripted_system(cache_ttl_s=0) as system:
        alone = [await system.search.Search(request) for request in requests[:20]]
        responses = {each.id: each.response async for each in system.search.SearchStream(numbered(*requests))}
        batches = [len(shard.batches) for shard in system.shards]
    assert sorted(responses) == [*range(100, 400)]
    for i, response in enumerate(alone):
        assert responses[100 + i].hits == response.hits
        assert responses[100 + i].provenance.version == response.provenance.version
    assert max(batches) < 300 + 20  # Searches that waited for a shard went together.


async def test_a_search_that_fails_is_an_error_on_the_stream_and_not_its_end() -> None:
    bad = SearchRequest(examples=[Example(product_id="unknown")])
    async with scripted_system() as system:
        call = system.search.SearchStream(numbered(search_of(1), bad, SearchRequest(), search_of(2)))
        results = {each.id: each async for each in call}
    assert {each_id for each_id, each in results.items() if each.HasField("response")} == {100, 103}
    assert results[101].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert (results[102].error.code, results[102].error.field) == (
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "examples",
    )


async def test_a_bug_that_one_search_meets_is_its_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    break_searches_of_limit(monkeypatch, 2)
    async with scripted_system() as system:
        results = {each.id: each async for each in system.search.SearchStream(numbered(search_of(0), search_of(1)))}
    assert results[100].HasField("response")
    assert results[101].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "a bug" not in results[101].error.message


async def test_a_fast_search_overtakes_a_slow_one() -> None:
    async with scripted_system(shard_timeout_s=3.0) as system:
        cached = by_vector("p03")
        await system.search.Search(cached)
        for shard in system.shards:
            shard.hang = True
        call = system.search.SearchStream(numbered(by_vector("p04"), cached))
        first, second = [each async for each in call]
    assert (first.id, first.response.provenance.cached) == (101, True)
    assert second.id == 100
    assert second.error.code == grpc.StatusCode.UNAVAILABLE.value[0]


async def test_no_more_is_read_ahead_than_the_bound_and_a_cancelled_stream_ends_its_searches() -> None:
    sent = 0

    async def requests() -> AsyncIterator[SearchStreamRequest]:
        nonlocal sent
        for i in itertools.count():
            sent += 1
            yield SearchStreamRequest(id=i, request=by_vector(IDS[i % 20]))

    async with scripted_system(cache_ttl_s=0, shard_timeout_s=30, shard_hang_s=30, max_inflight=1000) as system:
        for shard in system.shards:
            shard.hang = True
        call = system.search.SearchStream(requests())
        reading = asyncio.create_task(call.read())
        await until(lambda: calls_in_flight() == MAX_STREAM_AHEAD)
        await asyncio.sleep(0.2)
        assert calls_in_flight() == MAX_STREAM_AHEAD
        reading.cancel()
        call.cancel()
        await until(lambda: not calls_in_flight() and not REGISTRY.get_sample_value("lookalike_search_streams"))
    assert sent > MAX_STREAM_AHEAD  # gRPC's own buffers hold some more.


async def test_each_search_of_a_stream_counts_as_a_call() -> None:
    async with scripted_system(cache_ttl_s=0, max_inflight=4, shard_timeout_s=3.0) as system:
        for shard in system.shards:
            shard.hang = True
        call = system.search.SearchStream(numbered(*(by_vector(name) for name in IDS[:10])))
        results = [each async for each in call]
    refused = [each for each in results if each.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]]
    assert len(refused) == 6
    assert all(each.error.retry_after_s > 0 for each in refused)
    assert len(results) == 10


async def test_beyond_max_streams_a_stream_is_refused_at_once() -> None:
    async def never() -> AsyncIterator[SearchStreamRequest]:
        yield SearchStreamRequest(id=1, request=search_of(1))
        await asyncio.Event().wait()

    async with scripted_system(max_streams=1) as system:
        held = system.search.SearchStream(never())
        await held.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            _ = [each async for each in system.search.SearchStream(numbered(search_of(1)))]
        held.cancel()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_cannot_be_parsed_end_the_stream_as_an_invalid_argument() -> None:
    async def malformed() -> AsyncIterator[bytes]:
        yield SearchStreamRequest(id=1, request=search_of(1)).SerializeToString()
        yield b"\xff\xff\xff"

    async with scripted_system() as system:
        method: Any = system.channel.stream_stream("/lookalike.v1.SimilarProducts/SearchStream")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            _ = [each async for each in method(malformed())]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


SEARCHES: list[SearchArguments | SearchRequest] = [
    {"product_id": "p01", "limit": 2},
    {"product_id": "unknown"},
    search_of(2),
    {"product_id": "p01", "limit": 1001},
]


def kind(result: SearchResponse | LookalikeError) -> object:
    return type(result) if isinstance(result, LookalikeError) else len(result.hits)


async def test_both_clients_yield_each_position_with_its_response_or_error() -> None:
    async with scripted_system() as system:
        async with AsyncClient(system.address) as client:
            results = {i: kind(result) async for i, result in client.search_stream(SEARCHES)}
        with Client(system.address) as blocking:
            again = await asyncio.to_thread(lambda: {i: kind(each) for i, each in blocking.search_stream(SEARCHES)})
    assert results == again == {0: 2, 1: NotFound, 2: 3, 3: InvalidRequest}


async def test_what_the_searches_raise_is_raised_after_the_answers_before_it() -> None:
    def searches() -> Iterator[SearchArguments]:
        yield {"product_id": "p01"}
        yield {"product_id": "p02", "space": "smell"}

    async with scripted_system() as system:
        async with AsyncClient(system.address) as client:
            stream = client.search_stream(searches())
            assert (await anext(stream))[0] == 0
            with pytest.raises(InvalidRequest, match="smell"):
                await anext(stream)
        with Client(system.address) as blocking:
            again = blocking.search_stream(searches())
            assert (await asyncio.to_thread(next, again))[0] == 0
            with pytest.raises(InvalidRequest, match="smell"):
                await asyncio.to_thread(next, again)


async def test_a_stream_keeps_its_deadline_and_one_that_is_left_early_ends() -> None:
    async with scripted_system(cache_ttl_s=0, shard_timeout_s=30) as system, AsyncClient(system.address) as client:
        async for _ in client.search_stream([search_of(1), search_of(2)]):
            break
        for shard in system.shards:
            shard.hang = True
        try:
            outcomes: list[object] = [
                result async for _, result in client.search_stream([by_vector("p03")], timeout_s=0.3)
            ]
        except DeadlineExceeded as error:  # The stream's own deadline may come before its search's.
            outcomes = [error]
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded]
