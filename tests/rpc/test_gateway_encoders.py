"""The gateway before encoders that are late, through real gRPC."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.image.preprocessing import preprocess
from lookalike.errors import FailedPrecondition
from lookalike.runtime.deadline import Deadline
from lookalike.v1.catalog_pb2 import UpsertRequest
from lookalike.v1.search_pb2 import ClassifyRequest, Example, SearchRequest
from lookalike.v1.text_encoder_pb2 import EncodeTextResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product
from lookalike.vectors import pack
from server import encoding
from server.encoding import Encoders, Known
from server.settings import GatewaySettings
from tests.rpc.gateways import VECTORS, Scene, ScriptedProductEncoder, a_photo, a_scene, serving

PHOTO = SearchRequest(examples=[Example(image=a_photo(7))], space=SPACE_IMAGE)
Call = Callable[[Scene], Awaitable[object]]


async def code_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda scene: scene.search.Search(PHOTO), id="Search"),
        pytest.param(lambda scene: scene.search.Classify(ClassifyRequest(image=a_photo(7))), id="Classify"),
        pytest.param(
            lambda scene: scene.catalog.Upsert(
                UpsertRequest(product=Product(id="new"), revision=1, encode=True, image=a_photo(7))
            ),
            id="Upsert",
        ),
    ],
)
async def test_the_gateways_deadline_is_kept_while_a_photo_is_decoded(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    may_end, ended = threading.Event(), threading.Event()

    def held(data: bytes) -> encoding.Pixels:
        may_end.wait(20)
        ended.set()
        return preprocess(data)

    monkeypatch.setattr(encoding, "preprocess", held)
    async with a_scene(default_deadline_s=0.1) as scene:
        try:
            code, _ = await code_of(call(scene))
            assert (code, ended.is_set()) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)
        finally:
            may_end.set()


async def test_a_model_server_that_says_it_was_late_is_asked_once_and_unavailable() -> None:
    async with a_scene() as scene:
        scene.model.error = grpc.StatusCode.DEADLINE_EXCEEDED
        told = await code_of(scene.search.Search(PHOTO, timeout=2))
        assert told == (grpc.StatusCode.UNAVAILABLE, "image encoder did not answer in time")
        assert scene.model.photos == [7]


async def test_a_model_server_that_is_late_is_asked_once_though_its_caller_has_time_left() -> None:
    async with a_scene(default_deadline_s=0.1) as scene:
        scene.model.waits_for = asyncio.Event()
        told = await code_of(scene.search.Search(PHOTO, timeout=20))
        assert told == (grpc.StatusCode.UNAVAILABLE, "image encoder did not answer in time")
        assert scene.model.photos == [7]


NEVER = Deadline.after(None)
UNIT = np.eye(1, 8, dtype=np.float32)


@pytest.mark.parametrize(
    ("answer", "reason"),
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
async def test_an_answer_of_the_text_encoder_that_breaks_the_contract_is_no_query(
    answer: EncodeTextResponse, reason: str
) -> None:
    answer.fingerprint = "encoder-2"
    async with a_scene() as scene:
        scene.encoder.answer = answer
        code, details = await code_of(scene.search.Search(SearchRequest(examples=[Example(text="p07")])))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert reason in details


@pytest.mark.parametrize("classified", [False, True])
async def test_a_vector_of_another_encoder_fails_no_other_that_would_go_with_it(classified: bool) -> None:
    """As while text encoders are exchanged: products of the old version come with vectors of other dimensions."""
    photo, text = (VECTORS["p07", SPACE_IMAGE], "encoder-1"), (VECTORS["p07", SPACE_TEXT], "encoder-2")
    known = [Known(photo, text), Known(None, text), Known(photo, None), Known(None, text), Known(photo, text)]
    other = Known(None, (np.ones(300, dtype=np.float32), "encoder-of-300-dimensions"))
    products = ScriptedProductEncoder()
    async with serving(products.handler()) as address:
        encoders = Encoders(GatewaySettings(text_encoder=address))

        async def answer(each: Known) -> object:
            return await (encoders.classified(each, 0.9, NEVER) if classified else encoders.product(each, NEVER))

        answers = await asyncio.gather(*map(answer, [*known[:2], other, *known[2:]]), return_exceptions=True)
        await encoders.close()
    assert [isinstance(each, Exception) for each in answers] == [False, False, True, False, False, False]
    assert isinstance(answers[2], FailedPrecondition)
    # The first two at once; of those that came meanwhile the other, the photo alone, and the rest.
    assert [len(inputs) for inputs in products.asked] == [1, 1, 1, 1, 2]
