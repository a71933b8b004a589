"""Classification by the gateway, through real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from lookalike.errors import FailedPrecondition, LookalikeError, Overloaded
from lookalike.v1.product_encoder_pb2 import RankedCategories
from lookalike.v1.search_pb2 import ClassifyRequest, ClassifyResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from lookalike.vectors import pack
from tests.rpc.gateways import VECTORS, a_photo, calls_in_flight, scripted_system
from tests.rpc.model_servers import until

BOTH = ClassifyRequest(image=a_photo(7), text="p07")
STORED = ClassifyRequest(product_id="p07")


async def details_of(call: Awaitable[object], code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code
    return error.value.details() or ""


def likeliest(response: ClassifyResponse) -> dict[str, Any]:
    return {each.category: pytest.approx(each.probability) for each in response.categories}


async def test_a_photo_with_a_text_is_classified_by_both() -> None:
    async with scripted_system() as system:
        response = await system.search.Classify(BOTH)
        ((product_input,),) = system.product_encoder.batches
    assert (product_input.image, product_input.text) == (
        pack(VECTORS["p07", SPACE_IMAGE]),
        pack(VECTORS["p07", SPACE_TEXT]),
    )
    assert (response.category, response.abstention_reason) == ("fashion/shoes", "")
    assert likeliest(response) == {"fashion/shoes": 0.6, "food/sweets": 0.3, "home": 0.1}
    provenance = response.provenance
    assert (provenance.encoder, provenance.version, list(provenance.degraded)) == ("encoder-3", "", [])
    assert list(provenance.inputs) == [SPACE_IMAGE, SPACE_TEXT]
    assert (provenance.precision, provenance.threshold) == (0.9, 0.5)
    assert provenance.timings.total_s >= provenance.timings.encode_s > 0


async def test_a_photo_and_its_text_are_encoded_concurrently() -> None:
    async with scripted_system() as system:
        system.model_server.waits_for = system.text_encoder.received
        assert (await system.search.Classify(BOTH, timeout=30)).category == "fashion/shoes"


async def test_a_product_is_classified_by_its_stored_vectors() -> None:
    async with scripted_system() as system:
        response = await system.search.Classify(STORED)
        ((product_input,),) = system.product_encoder.batches
        assert (system.model_server.photos, system.text_encoder.texts) == ([], [])
    assert (product_input.image, product_input.text) == (
        pack(VECTORS["p07", SPACE_IMAGE]),
        pack(VECTORS["p07", SPACE_TEXT]),
    )
    assert response.category == "fashion/shoes"
    assert (response.provenance.version, response.provenance.encoder) == ("v1", "encoder-3")
    assert response.provenance.timings.lookup_s > 0


async def test_a_photo_or_a_text_alone_is_classified_and_the_answer_says_what_is_missing() -> None:
    async with scripted_system() as system:
        by_photo = await system.search.Classify(ClassifyRequest(image=a_photo(7)))
        by_words = await system.search.Classify(ClassifyRequest(text="p07"))
        stored = await system.search.Classify(ClassifyRequest(product_id="p19"))
        without_words = await system.search.Classify(ClassifyRequest(image=a_photo(7), text="☺"))
    for response, inputs, reason in (
        (by_photo, [SPACE_IMAGE], "the product has no text to classify it by"),
        (by_words, [SPACE_TEXT], "the product has no photo to classify it by"),
        (stored, [SPACE_TEXT], "the product has no photo to classify it by"),
        (
            without_words,
            [SPACE_IMAGE],
            "the product has no text to classify it by: the text encoder knows no word of the text",
        ),
    ):
        assert (list(response.provenance.inputs), list(response.provenance.degraded)) == (inputs, [reason])


async def test_a_stored_product_is_classified_by_the_spaces_that_the_version_has() -> None:
    async with scripted_system(spaces=(SPACE_TEXT,)) as system:
        assert list((await system.search.Classify(STORED)).provenance.inputs) == [SPACE_TEXT]


async def test_a_classification_by_photo_says_that_the_image_encoder_is_untrained() -> None:
    async with scripted_system(image_encoder="mobilenet-untrained-0") as system:
        by_both = await system.search.Classify(BOTH)
        by_words = await system.search.Classify(ClassifyRequest(text="p07"))
    assert by_both.provenance.degraded[0].startswith("the image encoder is untrained")
    assert not any("untrained" in reason for reason in by_words.provenance.degraded)


async def test_below_the_threshold_a_classification_abstains_with_a_reason_and_still_lists_the_likeliest() -> None:
    async with scripted_system() as system:
        system.product_encoder.threshold = 0.75
        response = await system.search.Classify(ClassifyRequest(text="p07", precision=0.8, limit=2))
    assert response.category == ""
    assert response.abstention_reason == (
        "the likeliest category has probability 0.600; precision 0.8 on held-out products needs at least 0.750"
    )
    assert likeliest(response) == {"fashion/shoes": 0.6, "food/sweets": 0.3}
    assert (response.provenance.precision, response.provenance.threshold) == (0.8, 0.75)


async def test_at_a_precision_that_was_never_reached_a_classification_always_abstains() -> None:
    async with scripted_system() as system:
        system.product_encoder.threshold = 2
        response = await system.search.Classify(ClassifyRequest(text="p07", precision=0.99))
    assert (response.category, response.provenance.threshold) == ("", 2)
    assert response.abstention_reason == "no probability reached precision 0.99 on held-out products"


async def test_concurrent_classifications_are_batched_by_precision() -> None:
    async with scripted_system() as system:
        requests = [ClassifyRequest(text=f"p{i:02}", precision=(0.8, 0.9)[i % 2], limit=1 + i % 3) for i in range(20)]
        responses = await asyncio.gather(*(system.search.Classify(request) for request in requests))
        assert len(system.product_encoder.batches) < len(requests)
        assert sum(map(len, system.product_encoder.batches)) == len(requests)
        assert {*system.product_encoder.precisions} == {0.8, 0.9}
    for request, response in zip(requests, responses, strict=True):
        assert (response.provenance.precision, len(response.categories)) == (request.precision, request.limit)


@pytest.mark.parametrize(
    ("mismatch", "reason"),
    [
        ({"image_encoder": "encoder-other"}, "the photo was encoded by encoder-1; encoder-3 takes encoder-other"),
        ({"text_encoder": "encoder-other"}, "the text was encoded by encoder-2; encoder-3 takes encoder-other"),
    ],
)
@pytest.mark.parametrize("request_", [STORED, BOTH], ids=["stored", "encoded"])
async def test_vectors_of_encoders_the_classifier_was_not_trained_on_are_refused(
    request_: ClassifyRequest, mismatch: dict[str, str], reason: str
) -> None:
    async with scripted_system() as system:
        for name, value in mismatch.items():
            setattr(system.product_encoder, name, value)
        assert reason in await details_of(system.search.Classify(request_), grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FailedPrecondition("no classifier"), grpc.StatusCode.FAILED_PRECONDITION),
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=lambda each: getattr(each, "name", type(each).__name__),
)
async def test_errors_of_the_product_encoder_are_passed_on(error: LookalikeError, code: grpc.StatusCode) -> None:
    async with scripted_system() as system:
        system.product_encoder.error = error
        assert str(error) in await details_of(system.search.Classify(STORED), code)


@pytest.mark.parametrize(
    "results",
    [[], [RankedCategories()], [RankedCategories(categories=["a", "b"], probabilities=bytes(4))]],
    ids=["none", "without a category", "of fewer probabilities than categories"],
)
async def test_a_product_encoder_response_that_breaks_the_contract_is_unavailable(
    results: list[RankedCategories],
) -> None:
    async with scripted_system() as system:
        system.product_encoder.results = results
        assert "product encoder" in await details_of(system.search.Classify(STORED), grpc.StatusCode.UNAVAILABLE)


async def test_without_a_product_encoder_classification_fails() -> None:
    async with scripted_system(product_encoder=False) as system:
        details = await details_of(system.search.Classify(BOTH), grpc.StatusCode.FAILED_PRECONDITION)
        assert "no product encoder is deployed" in details
    async with scripted_system(text_encoder=()) as system:
        await details_of(system.search.Classify(STORED), grpc.StatusCode.FAILED_PRECONDITION)


async def test_an_input_that_cannot_be_classified_is_refused_with_its_field() -> None:
    async with scripted_system() as system:
        for request, field in (
            (ClassifyRequest(), "product_id"),
            (ClassifyRequest(product_id="p07", text="p07"), "text"),
            (ClassifyRequest(image=b"no photo"), "image"),
        ):
            details = await details_of(system.search.Classify(request), grpc.StatusCode.INVALID_ARGUMENT)
            assert details.startswith(field + ":")
        await details_of(system.search.Classify(ClassifyRequest(product_id="nobody")), grpc.StatusCode.NOT_FOUND)


async def test_a_product_without_any_vector_is_not_found() -> None:
    async with scripted_system(spaces=(SPACE_IMAGE,)) as system:
        details = await details_of(system.search.Classify(ClassifyRequest(product_id="p19")), grpc.StatusCode.NOT_FOUND)
        assert "p19 has neither a photo nor a text vector" in details


async def test_classifications_need_a_permit_and_end_at_their_deadline() -> None:
    async with scripted_system(max_inflight=1, shard_timeout_s=60) as system:
        for shard in system.shards:
            shard.hang = True
        hanging = system.search.Classify(STORED, timeout=0.5)
        await asyncio.sleep(0.1)
        await details_of(system.search.Classify(BOTH), grpc.StatusCode.RESOURCE_EXHAUSTED)
        await details_of(hanging, grpc.StatusCode.DEADLINE_EXCEEDED)
        await until(lambda: not calls_in_flight())  # The gateway notices the deadline a moment after its caller.
        assert (await system.search.Classify(BOTH)).category
