"""BatchSearch through a real gateway: from the contract, from both clients and from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from lookalike.cli import search as search_command
from lookalike.cli.dispatch import run
from lookalike.client import AsyncClient, Client, SearchArguments, example
from lookalike.errors import InvalidRequest, LookalikeError, NotFound, Overloaded, Unavailable
from lookalike.limits import MAX_BATCH
from lookalike.status import from_request_error, to_request_error
from lookalike.v1.search_pb2 import BatchSearchRequest, Example, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from lookalike.vectors import pack
from server import batch
from tests.rpc.gateways import VECTORS, break_searches_of_limit, calls_in_flight, scripted_system
from tests.rpc.model_servers import until

IDS = [f"p{number:02}" for number in range(20)]


def without_timings(response: SearchResponse) -> SearchResponse:
    response.provenance.ClearField("timings")
    return response


def searches_counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("lookalike_batch_searches_total", {"outcome": outcome}) or 0.0


async def test_each_request_has_the_response_that_a_search_of_its_own_has() -> None:
    requests = [SearchRequest(examples=[Example(product_id=name)], limit=limit) for name in IDS for limit in (1, 3)]
    async with scripted_system(cache_ttl_s=0) as system:
        alone = [await system.search.Search(request) for request in requests]
        for shard in system.shards:
            shard.batches.clear()
        together = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
        batches = [len(shard.batches) for shard in system.shards]
    assert [without_timings(each.response) for each in together.results] == [*map(without_timings, alone)]
    assert max(batches) < len(requests) / 4  # The shards were asked for many at a time.


async def test_a_request_that_fails_has_its_error_and_the_others_have_their_responses() -> None:
    counted = searches_counted("OK"), searches_counted("NOT_FOUND"), searches_counted("INVALID_ARGUMENT")
    requests = [
        SearchRequest(examples=[Example(product_id="p01")]),
        SearchRequest(examples=[Example(product_id="unknown")]),
        SearchRequest(examples=[Example(product_id="p01")], limit=1001),
        SearchRequest(),
        SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT),
    ]
    async with scripted_system() as system:
        response = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["response", "error", "error", "error", "response"]
    unknown, limit, examples = (result.error for result in response.results[1:4])
    assert unknown.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "unknown" in unknown.message
    assert (limit.code, limit.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "limit")
    assert examples.field == "examples"
    assert searches_counted("OK") == counted[0] + 2
    assert searches_counted("NOT_FOUND") == counted[1] + 1
    assert searches_counted("INVALID_ARGUMENT") == counted[2] + 2


async def test_a_bug_that_one_search_meets_is_its_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    break_searches_of_limit(monkeypatch, 7)
    requests = [SearchRequest(examples=[Example(product_id="p01")], limit=limit) for limit in (6, 7, 8)]
    async with scripted_system() as system:
        response = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    assert [result.WhichOneof("result") for result in response.results] == ["response", "error", "response"]
    assert response.results[1].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert "a bug" not in response.results[1].error.message


async def test_equal_requests_of_a_batch_are_searched_once() -> None:
    requests = [SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT)] * 64
    async with scripted_system() as system:
        response = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
        assert sum(sum(shard.batches) for shard in system.shards) == len(system.shards)
    assert len({tuple(hit.product.id for hit in each.response.hits) for each in response.results}) == 1


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
async def test_a_batch_of_none_or_of_too_many_is_refused_whole(count: int) -> None:
    requests = [SearchRequest(examples=[Example(product_id="p01")])] * count
    async with scripted_system() as system:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "requests" in (refused.value.details() or "")


async def test_a_batch_counts_as_as_many_calls_as_it_has_requests() -> None:
    requests = [SearchRequest(examples=[Example(product_id=name)]) for name in IDS[:10]]
    async with scripted_system(max_inflight=10, cache_ttl_s=0, shard_timeout_s=30) as system:
        system.shards[0].hang = True
        waiting = system.search.BatchSearch(BatchSearchRequest(requests=requests), timeout=30)
        await until(lambda: calls_in_flight() == len(requests))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await system.search.Search(requests[0])
        waiting.cancel()
        system.shards[0].hang = False
        larger = BatchSearchRequest(requests=requests * 3)  # More than all permits: admitted where nothing else runs.
        for _ in range(100):
            try:
                assert len((await system.search.BatchSearch(larger)).results) == 30
                break
            except grpc.aio.AioRpcError:  # The cancelled batch has not ended yet.
                await asyncio.sleep(0.05)
        else:
            pytest.fail("the batch was never admitted")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_shard_that_is_down_is_each_requests_own_error() -> None:
    requests = [SearchRequest(examples=[Example(vector=pack(VECTORS[name, SPACE_IMAGE]))]) for name in ("p02", "p03")]
    for request in requests:
        request.space, request.min_coverage = SPACE_IMAGE, 1.0
    async with scripted_system() as system:
        system.shards[1].error = Unavailable("broken")
        response = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    assert [result.error.code for result in response.results] == [grpc.StatusCode.UNAVAILABLE.value[0]] * 2


async def test_responses_beyond_one_message_are_errors_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_MESSAGE_BYTES", MAX_BATCH * batch._ERROR_BYTES + 2000)
    requests = [SearchRequest(examples=[Example(product_id=name)], limit=5) for name in IDS]
    async with scripted_system() as system:
        response = await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds[0] == "response"
    assert kinds[-1] == "error"
    assert response.results[-1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert "send fewer requests" in response.results[-1].error.message


def results_of(outcomes: Sequence[SearchResponse | LookalikeError]) -> list[object]:
    return [type(each) if isinstance(each, LookalikeError) else len(each.hits) for each in outcomes]


async def test_both_clients_return_responses_and_errors_in_order() -> None:
    searches: list[SearchArguments | SearchRequest] = [
        {"product_id": "p01", "limit": 2},
        {"product_id": "unknown"},
        SearchRequest(examples=[example(product_id="p02")], limit=3),
        {"product_id": "p01", "limit": 1001},
    ]
    async with scripted_system() as system:
        async with AsyncClient(system.address) as client:
            outcomes = await client.batch_search(searches)
            with pytest.raises(InvalidRequest, match=r"requests\[1\]\.space"):
                await client.batch_search([{"product_id": "p01"}, {"product_id": "p01", "space": "smell"}])
            with pytest.raises(InvalidRequest, match="at most 256"):
                await client.batch_search([{"product_id": "p01"}] * 257)
            with pytest.raises(InvalidRequest, match="bytes together"):
                await client.batch_search([{"image": b"\0" * (8 << 20)}] * 5)
        with Client(system.address) as blocking:
            again = await asyncio.to_thread(blocking.batch_search, searches)
    assert results_of(outcomes) == results_of(again) == [2, NotFound, 3, InvalidRequest]
    assert isinstance(outcomes[3], InvalidRequest)
    assert outcomes[3].field == "limit"


async def test_the_command_prints_a_result_for_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"examples": [{"product_id": IDS[i % 20]}], "limit": 1 + i % 3} for i in range(300)]
    file = tmp_path / "searches.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    async with scripted_system() as system:
        status = await asyncio.to_thread(command, "--batch", str(file), "--address", system.address)
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        file.write_text('{"examples": [{"product_id": "unknown"}]}\n')
        failed = await asyncio.to_thread(command, "--batch", str(file), "--address", system.address)
        error = json.loads(capsys.readouterr().out)["error"]
    assert status == 0
    assert [len(each["response"]["hits"]) for each in printed] == [1 + i % 3 for i in range(300)]
    assert failed == 1
    assert error["code"] == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"examples": []}\nnot json\n', "--batch line 2"),
        (b'{"no_such_field": 1}\n', "no_such_field"),
        (b"\xff\xfe{}", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_searches_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, complaint: str
) -> None:
    file = tmp_path / "searches.jsonl"
    if content is not None:
        file.write_bytes(content)
    assert command("--batch", str(file), "--address", "127.0.0.1:1") == 2
    assert complaint in capsys.readouterr().err


def command(*arguments: str) -> int:
    return run(lambda: search_command.main(arguments, {}))


def test_a_batch_search_keeps_the_retry_delay_of_an_overload() -> None:
    error = from_request_error(to_request_error(Overloaded("full", retry_after_s=1.5)))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == 1.5
