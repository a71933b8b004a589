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
from tests.rpc.gateways import VECTORS, a_photo, a_scene

BOTH = ClassifyRequest(image=a_photo(7), text="p07")
STORED = ClassifyRequest(product_id="p07")


async def refused(call: Awaitable[object], code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code
    return error.value.details() or ""


def likeliest(response: ClassifyResponse) -> dict[str, Any]:
    return {each.category: pytest.approx(each.probability) for each in response.categories}


async def test_a_photo_with_a_text_is_classified_by_both() -> None:
    async with a_scene() as scene:
        response = await scene.search.Classify(BOTH)
        ((asked,),) = scene.products.asked
    assert (asked.image, asked.text) == (pack(VECTORS["p07", SPACE_IMAGE]), pack(VECTORS["p07", SPACE_TEXT]))
    assert (response.category, response.abstention_reason) == ("fashion/shoes", "")
    assert likeliest(response) == {"fashion/shoes": 0.6, "food/sweets": 0.3, "home": 0.1}
    provenance = response.provenance
    assert (provenance.encoder, provenance.version, list(provenance.degraded)) == ("encoder-3", "", [])
    assert list(provenance.inputs) == [SPACE_IMAGE, SPACE_TEXT]
    assert (provenance.precision, provenance.threshold) == (0.9, 0.5)
    assert provenance.timings.total_s >= provenance.timings.encode_s > 0


async def test_a_photo_and_its_text_are_encoded_at_the_same_time() -> None:
    async with a_scene() as scene:
        scene.model.waits_for = scene.encoder.heard
        assert (await scene.search.Classify(BOTH, timeout=30)).category == "fashion/shoes"


async def test_a_product_is_classified_by_its_stored_vectors() -> None:
    async with a_scene() as scene:
        response = await scene.search.Classify(STORED)
        ((asked,),) = scene.products.asked
        assert (scene.model.photos, scene.encoder.texts) == ([], [])
    assert (asked.image, asked.text) == (pack(VECTORS["p07", SPACE_IMAGE]), pack(VECTORS["p07", SPACE_TEXT]))
    assert response.category == "fashion/shoes"
    assert (response.provenance.version, response.provenance.encoder) == ("v1", "encoder-3")
    assert response.provenance.timings.lookup_s > 0


async def test_one_half_of_a_product_is_enough_and_is_said_to_be_one() -> None:
    async with a_scene() as scene:
        by_photo = await scene.search.Classify(ClassifyRequest(image=a_photo(7)))
        by_words = await scene.search.Classify(ClassifyRequest(text="p07"))
        stored = await scene.search.Classify(ClassifyRequest(product_id="p19"))
        wordless = await scene.search.Classify(ClassifyRequest(image=a_photo(7), text="☺"))
    for response, inputs, reason in (
        (by_photo, [SPACE_IMAGE], "the product has no text to classify it by"),
        (by_words, [SPACE_TEXT], "the product has no photo to classify it by"),
        (stored, [SPACE_TEXT], "the product has no photo to classify it by"),
        (
            wordless,
            [SPACE_IMAGE],
            "the product has no text to classify it by: the text encoder knows no word of the text",
        ),
    ):
        assert (list(response.provenance.inputs), list(response.provenance.degraded)) == (inputs, [reason])


async def test_only_the_spaces_that_the_version_has_are_gone_by() -> None:
    async with a_scene(spaces=(SPACE_TEXT,)) as scene:
        assert list((await scene.search.Classify(STORED)).provenance.inputs) == [SPACE_TEXT]


async def test_an_untrained_image_encoder_is_said_to_be_where_a_photo_counts() -> None:
    async with a_scene(image_encoder="mobilenet-untrained-0") as scene:
        by_both = await scene.search.Classify(BOTH)
        by_words = await scene.search.Classify(ClassifyRequest(text="p07"))
    assert by_both.provenance.degraded[0].startswith("the image encoder is untrained")
    assert not any("untrained" in reason for reason in by_words.provenance.degraded)


async def test_below_the_threshold_it_abstains_says_why_and_tells_the_likeliest_all_the_same() -> None:
    async with a_scene() as scene:
        scene.products.threshold = 0.75
        response = await scene.search.Classify(ClassifyRequest(text="p07", precision=0.8, limit=2))
    assert response.category == ""
    assert response.abstention_reason == (
        "the likeliest category has probability 0.600; precision 0.8 on held-out products needs at least 0.750"
    )
    assert likeliest(response) == {"fashion/shoes": 0.6, "food/sweets": 0.3}
    assert (response.provenance.precision, response.provenance.threshold) == (0.8, 0.75)


async def test_a_precision_that_was_never_reached_is_always_abstained_at() -> None:
    async with a_scene() as scene:
        scene.products.threshold = 2
        response = await scene.search.Classify(ClassifyRequest(text="p07", precision=0.99))
    assert (response.category, response.provenance.threshold) == ("", 2)
    assert response.abstention_reason == "no probability reached precision 0.99 on held-out products"


async def test_what_is_asked_at_the_same_time_goes_together_each_at_its_own_precision() -> None:
    async with a_scene() as scene:
        requests = [ClassifyRequest(text=f"p{i:02}", precision=(0.8, 0.9)[i % 2], limit=1 + i % 3) for i in range(20)]
        responses = await asyncio.gather(*(scene.search.Classify(request) for request in requests))
        assert len(scene.products.asked) < len(requests)
        assert sum(map(len, scene.products.asked)) == len(requests)
        assert {*scene.products.precisions} == {0.8, 0.9}
    for request, response in zip(requests, responses, strict=True):
        assert (response.provenance.precision, len(response.categories)) == (request.precision, request.limit)


@pytest.mark.parametrize(
    ("at_fault", "reason"),
    [
        ({"image_encoder": "encoder-other"}, "the photo was encoded by encoder-1; encoder-3 takes encoder-other"),
        ({"text_encoder": "encoder-other"}, "the text was encoded by encoder-2; encoder-3 takes encoder-other"),
    ],
)
@pytest.mark.parametrize("request_", [STORED, BOTH], ids=["stored", "encoded"])
async def test_a_classifier_of_other_encoders_is_never_asked(
    request_: ClassifyRequest, at_fault: dict[str, str], reason: str
) -> None:
    async with a_scene() as scene:
        for name, value in at_fault.items():
            setattr(scene.products, name, value)
        assert reason in await refused(scene.search.Classify(request_), grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FailedPrecondition("no classifier"), grpc.StatusCode.FAILED_PRECONDITION),
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=lambda each: getattr(each, "name", type(each).__name__),
)
async def test_what_the_product_encoder_says_of_itself_is_passed_on(
    error: LookalikeError, code: grpc.StatusCode
) -> None:
    async with a_scene() as scene:
        scene.products.error = error
        assert str(error) in await refused(scene.search.Classify(STORED), code)


@pytest.mark.parametrize(
    "results",
    [[], [RankedCategories()], [RankedCategories(categories=["a", "b"], probabilities=bytes(4))]],
    ids=["none", "without a category", "of fewer probabilities than categories"],
)
async def test_an_answer_of_the_product_encoder_that_breaks_the_contract_is_no_classification(
    results: list[RankedCategories],
) -> None:
    async with a_scene() as scene:
        scene.products.results = results
        assert "product encoder" in await refused(scene.search.Classify(STORED), grpc.StatusCode.UNAVAILABLE)


async def test_without_a_product_encoder_nothing_is_classified_and_the_rest_goes_on() -> None:
    async with a_scene(product_encoder=False) as scene:
        why = await refused(scene.search.Classify(BOTH), grpc.StatusCode.FAILED_PRECONDITION)
        assert "no product encoder is deployed" in why
    async with a_scene(text_encoder="") as scene:
        await refused(scene.search.Classify(STORED), grpc.StatusCode.UNAVAILABLE)


async def test_what_cannot_be_classified_is_told_its_field() -> None:
    async with a_scene() as scene:
        for request, field in (
            (ClassifyRequest(), "product_id"),
            (ClassifyRequest(product_id="p07", text="p07"), "text"),
            (ClassifyRequest(text="☺"), "text"),
            (ClassifyRequest(image=b"no photo"), "image"),
        ):
            why = await refused(scene.search.Classify(request), grpc.StatusCode.INVALID_ARGUMENT)
            assert why.startswith(field + ":")
        await refused(scene.search.Classify(ClassifyRequest(product_id="nobody")), grpc.StatusCode.NOT_FOUND)


async def test_a_product_without_any_vector_is_not_found() -> None:
    async with a_scene(spaces=(SPACE_IMAGE,)) as scene:
        why = await refused(scene.search.Classify(ClassifyRequest(product_id="p19")), grpc.StatusCode.NOT_FOUND)
        assert "p19 has neither a photo nor a text vector" in why


async def test_classifications_need_a_permit_and_keep_a_deadline_like_searches() -> None:
    async with a_scene(max_inflight=1, shard_timeout_s=60) as scene:
        for shard in scene.shards:
            shard.hang = True
        hung = scene.search.Classify(STORED, timeout=0.5)
        await asyncio.sleep(0.1)
        await refused(scene.search.Classify(BOTH), grpc.StatusCode.RESOURCE_EXHAUSTED)
        await refused(hung, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert (await scene.search.Classify(BOTH)).category
