"""The gateway with encoders that are late or break their contract, through real gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders import clients
from encoders.clients import EncodedVector, Encoders, EncoderSettings, InputVectors
from encoders.image.preprocessing import preprocess
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.partition import shard_of
from lookalike.status import to_error
from lookalike.v1.catalog_pb2 import GetRequest, UpsertRequest
from lookalike.v1.search_pb2 import ClassifyRequest, Example, SearchRequest, SearchResponse
from lookalike.v1.text_encoder_pb2 import EncodeTextResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product
from lookalike.vectors import pack
from tests.rpc.gateways import VECTORS, ScriptedProductEncoder, ScriptedSystem, a_photo, scripted_system, serving
from tests.rpc.model_servers import until

PHOTO = SearchRequest(examples=[Example(image=a_photo(7))], space=SPACE_IMAGE)
Call = Callable[[ScriptedSystem], Awaitable[object]]


async def status_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda system: system.search.Search(PHOTO), id="Search"),
        pytest.param(lambda system: system.search.Classify(ClassifyRequest(image=a_photo(7))), id="Classify"),
        pytest.param(
            lambda system: system.catalog.Upsert(
                UpsertRequest(product=Product(id="new", category="home"), revision=1, encode=True, image=a_photo(7))
            ),
            id="Upsert",
        ),
    ],
)
async def test_the_default_deadline_holds_while_a_photo_is_decoded(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    may_finish, finished = threading.Event(), threading.Event()

    def blocking_preprocess(data: bytes, side_px: int) -> clients.Pixels:
        may_finish.wait(20)
        finished.set()
        return preprocess(data, side_px)

    monkeypatch.setattr(clients, "preprocess", blocking_preprocess)
    async with scripted_system(default_deadline_s=0.1) as system:
        try:
            code, _ = await status_of(call(system))
            assert (code, finished.is_set()) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)
        finally:
            may_finish.set()


async def test_a_deadline_exceeded_of_the_model_server_is_unavailable_and_not_retried() -> None:
    async with scripted_system() as system:
        system.model_server.error = grpc.StatusCode.DEADLINE_EXCEEDED
        status = await status_of(system.search.Search(PHOTO, timeout=2))
        assert status == (grpc.StatusCode.UNAVAILABLE, "image encoder did not answer in time")
        assert system.model_server.photos == [7]


async def test_a_late_model_server_is_unavailable_and_not_retried_even_with_time_left() -> None:
    async with scripted_system(default_deadline_s=0.4) as system:
        system.model_server.waits_for = asyncio.Event()
        status = await status_of(system.search.Search(PHOTO, timeout=20))
        assert status == (grpc.StatusCode.UNAVAILABLE, "image encoder did not answer in time")
        assert system.model_server.photos == [7]


async def test_photos_that_arrive_while_a_call_is_in_flight_are_sent_together_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[bytes] = []

    def recording_preprocess(data: bytes, side_px: int) -> clients.Pixels:
        pixels = preprocess(data, side_px)
        decoded.append(data)
        return pixels

    def search(system: ScriptedSystem, number: int) -> asyncio.Future[SearchResponse]:
        request = SearchRequest(examples=[Example(image=a_photo(number))], space=SPACE_IMAGE)
        return asyncio.ensure_future(system.search.Search(request))

    monkeypatch.setattr(clients, "preprocess", recording_preprocess)
    async with scripted_system() as system:
        system.model_server.waits_for = asyncio.Event()
        searches = [search(system, 1)]
        await until(lambda: system.model_server.calls)
        for number in (2, 3, 4):
            searches.append(search(system, number))
            await until(lambda number=number: len(decoded) == number)  # type: ignore[misc]  # mypy cannot infer it
            # The gateway has taken the photo from its thread once a search that began later is answered.
            await system.search.Search(SearchRequest(examples=[Example(product_id="p07")]))
        system.model_server.waits_for.set()
        await asyncio.gather(*searches)
        assert system.model_server.calls == [1, 3]


NEVER = Deadline.after(None)
UNIT = np.eye(1, 8, dtype=np.float32)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (EncodeTextResponse(), "0 bytes, expected 1 vectors of 0 dimensions"),
        (EncodeTextResponse(vectors=pack(UNIT)), "32 bytes, expected 1 vectors of 0 dimensions"),
        (EncodeTextResponse(vectors=pack(UNIT), dim=4), "32 bytes, expected 1 vectors of 4 dimensions"),
        (EncodeTextResponse(vectors=pack(UNIT)[:-1], dim=8), "31 bytes, expected 1 vectors of 8 dimensions"),
        (EncodeTextResponse(dim=8), "0 bytes, expected 1 vectors of 8 dimensions"),
        (EncodeTextResponse(vectors=pack(UNIT * np.float32(2)), dim=8), "neither of unit norm nor zero"),
        (EncodeTextResponse(vectors=pack(UNIT * np.float32(np.nan)), dim=8), "neither of unit norm nor zero"),
    ],
)
async def test_a_text_encoder_response_that_breaks_the_contract_is_unavailable(
    response: EncodeTextResponse, reason: str
) -> None:
    response.fingerprint = "encoder-2"
    async with scripted_system() as system:
        system.text_encoder.response = response
        code, details = await status_of(system.search.Search(SearchRequest(examples=[Example(text="p07")])))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert reason in details


@pytest.mark.parametrize("classify", [False, True])
async def test_a_vector_of_another_encoder_does_not_fail_the_others_of_its_batch(classify: bool) -> None:
    """As during a change of text encoders: products of the old version have vectors of another dimension."""
    photo = EncodedVector(VECTORS["p07", SPACE_IMAGE], "encoder-1")
    text = EncodedVector(VECTORS["p07", SPACE_TEXT], "encoder-2")
    inputs = [InputVectors(*pair) for pair in ((photo, text), (None, text), (photo, None), (None, text), (photo, text))]
    other = InputVectors(None, EncodedVector(np.ones(300, dtype=np.float32), "encoder-of-300-dimensions"))
    products = ScriptedProductEncoder()
    async with serving(products.handler()) as address:
        encoders = Encoders(EncoderSettings(text_encoders=[address]))

        async def call(each: InputVectors) -> object:
            return await (encoders.classify(each, 0.9, NEVER) if classify else encoders.encode_product(each, NEVER))

        outcomes = await asyncio.gather(*map(call, [*inputs[:2], other, *inputs[2:]]), return_exceptions=True)
        await encoders.close()
    assert [isinstance(each, Exception) for each in outcomes] == [False, False, True, False, False, False]
    assert isinstance(outcomes[2], FailedPrecondition)
    # Sent at once, in one call for each pair of encoders.
    assert [len(batch) for batch in products.batches] == [4, 1, 1]


async def test_while_the_model_server_hangs_photos_fail_at_once_and_all_else_works_until_it_answers_again() -> None:
    async with scripted_system(default_deadline_s=0.1) as system:
        system.model_server.waits_for = asyncio.Event()
        for _ in range(3):
            code, _ = await status_of(system.search.Search(PHOTO, timeout=20))
            assert code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await system.search.Search(PHOTO, timeout=20)
        error = to_error(refused.value)
        assert isinstance(error, Unavailable)
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 1
        assert system.model_server.photos == [7] * 3
        await system.search.Search(SearchRequest(examples=[Example(text="p07")]))
        system.model_server.waits_for.set()
        async with asyncio.timeout(20):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await system.search.Search(PHOTO, timeout=20)
                    break
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("example", [Example(image=a_photo(7)), Example(text="p07")], ids=["photo", "text"])
async def test_a_gateway_without_an_encoder_cannot_answer_however_often_it_is_asked(example: Example) -> None:
    async with scripted_system(model_server="", text_encoder=()) as system:
        space = SPACE_IMAGE if example.HasField("image") else SPACE_TEXT
        code, details = await status_of(system.search.Search(SearchRequest(examples=[example], space=space)))
        assert (code, "encoder is set" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        code, _ = await status_of(
            system.search.Classify(
                ClassifyRequest(image=a_photo(7)) if space is SPACE_IMAGE else ClassifyRequest(text="p07")
            )
        )
        assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_bug_in_one_shard_is_a_gap_and_where_only_that_shard_could_answer_internal() -> None:
    async with scripted_system() as system:
        query = SearchRequest(examples=[Example(text="p07")])
        broken = shard_of("p07", len(system.shards))
        system.shards[broken].error = RuntimeError("a bug")  # type: ignore[assignment]  # no error of ours
        response = await system.search.Search(query)
        assert 0 < response.provenance.coverage < 1
        assert any("internal error" in reason for reason in response.provenance.degraded)
        assert (await status_of(system.catalog.Get(GetRequest(product_id="p07"))))[0] is grpc.StatusCode.INTERNAL
        system.shards[1 - broken].error = RuntimeError("a bug")  # type: ignore[assignment]  # no error of ours
        assert (await status_of(system.search.Search(query)))[0] is grpc.StatusCode.INTERNAL
        system.shards[1 - broken].error = Unavailable("stopping")
        assert (await status_of(system.search.Search(query)))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_shard_between_two_versions_is_unavailable_and_says_when_to_retry() -> None:
    async with scripted_system() as system:
        for shard in system.shards:
            shard.error = FailedPrecondition("this shard does not serve version 1")
        for call in (
            system.search.Search(SearchRequest(examples=[Example(text="p07")])),
            system.catalog.Get(GetRequest(product_id="p07")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            error = to_error(raised.value)
            assert isinstance(error, Unavailable)
            assert error.retry_after_s == 1.0
