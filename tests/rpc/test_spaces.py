"""Searches in the product space, late fusion, and the policy of AUTO, through a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError, Overloaded, Unavailable
from lookalike.v1.search_pb2 import Example, SearchedSpace, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space, SpaceWeight
from lookalike.vectors import F32, normalised, pack, unpack
from tests.rpc.gateways import DIMS, PRODUCTS, VECTORS, a_photo, fuse, scripted_system

ALL = (SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)
UNTRAINED = "mobilenet-untrained-0"


def photo(number: int, weight: float | None = None) -> Example:
    return Example(image=a_photo(number), weight=weight)


def words(number: int, weight: float | None = None) -> Example:
    return Example(text=f"p{number:02}", weight=weight)


def product(number: int, weight: float | None = None) -> Example:
    return Example(product_id=f"p{number:02}", weight=weight)


def weights(**by_name: float) -> list[SpaceWeight]:
    return [SpaceWeight(space=Space.Value(f"SPACE_{name.upper()}"), weight=each) for name, each in by_name.items()]


def image_of(number: int) -> F32:
    return VECTORS[f"p{number:02}", SPACE_IMAGE]


def text_of(number: int) -> F32:
    return VECTORS[f"p{number:02}", SPACE_TEXT]


def unit(vector: F32) -> F32:
    row: F32 = normalised(vector[None, :].astype(np.float32))[0]
    return row


def rank_by_brute_force(
    queries: dict[Space.ValueType, tuple[F32, float]], without: tuple[int, ...] = ()
) -> list[tuple[str, float]]:
    """Every product that has a vector in one of the spaces, by the weighted sum of its cosines: by brute force."""
    scores = {
        each.id: sum(
            float(weight * (VECTORS[each.id, s] @ q)) for s, (q, weight) in queries.items() if (each.id, s) in VECTORS
        )
        for each in PRODUCTS
        if any((each.id, space) in VECTORS for space in queries)
    }
    kept = {product_id: score for product_id, score in scores.items() if int(product_id[1:]) not in without}
    return sorted(kept.items(), key=lambda entry: (-entry[1], entry[0]))


def assert_same_ranking(response: SearchResponse, expected: list[tuple[str, float]]) -> None:
    hits = [(hit.product.id, hit.score) for hit in response.hits]
    assert [product_id for product_id, _ in hits] == [product_id for product_id, _ in expected][: len(hits)]
    assert [score for _, score in hits] == pytest.approx([score for _, score in expected][: len(hits)], abs=1e-5)


def spaces(response: SearchResponse) -> list[Space.ValueType]:
    return [each.space for each in response.provenance.spaces]


async def details_of(call: Awaitable[object], code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is code
    return error.value.details() or ""


async def test_a_product_is_searched_by_its_stored_vector_in_the_product_space() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(SearchRequest(examples=[product(7)], space=SPACE_PRODUCT))
        without_vector = SearchRequest(examples=[product(17)], space=SPACE_PRODUCT)
        assert "p17 has no product vector" in await details_of(
            system.search.Search(without_vector), grpc.StatusCode.NOT_FOUND
        )
        assert system.product_encoder.batches == []
    assert_same_ranking(
        response, rank_by_brute_force({SPACE_PRODUCT: (VECTORS["p07", SPACE_PRODUCT], 1)}, without=(7,))
    )
    assert list(response.provenance.spaces) == [SearchedSpace(space=SPACE_PRODUCT, encoder="encoder-3", weight=1)]
    assert (response.provenance.documents_total, response.provenance.policy) == (19, "")


async def test_a_photo_and_a_text_are_fused_like_those_of_a_product() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(SearchRequest(examples=[photo(7), words(7)], space=SPACE_PRODUCT))
        ((product_input,),) = system.product_encoder.batches
    assert response.hits[0].product.id == "p07"
    assert response.hits[0].score == pytest.approx(1)
    assert (product_input.image, product_input.text) == (pack(image_of(7)), pack(text_of(7)))


async def test_in_the_product_space_a_photo_or_a_text_alone_is_encoded_as_a_product() -> None:
    async with scripted_system(spaces=ALL) as system:
        by_photo = await system.search.Search(SearchRequest(examples=[photo(7)], space=SPACE_PRODUCT))
        by_words = await system.search.Search(SearchRequest(examples=[words(7)], space=SPACE_PRODUCT))
    assert_same_ranking(by_photo, rank_by_brute_force({SPACE_PRODUCT: (fuse(image_of(7), None), 1)}))
    assert_same_ranking(by_words, rank_by_brute_force({SPACE_PRODUCT: (fuse(None, text_of(7)), 1)}))


async def test_several_photos_and_texts_are_fused_as_one_product_from_their_weighted_means() -> None:
    examples = [photo(1, 3), words(2, 1), photo(3, 1), words(4, 2), product(5, 2)]
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(SearchRequest(examples=examples, space=SPACE_PRODUCT))
        ((product_input,),) = system.product_encoder.batches
    image, text = unit(3 * image_of(1) + image_of(3)), unit(text_of(2) + 2 * text_of(4))
    np.testing.assert_allclose(unpack(product_input.image, DIMS[SPACE_IMAGE])[0], image, atol=1e-6)
    np.testing.assert_allclose(unpack(product_input.text, DIMS[SPACE_TEXT])[0], text, atol=1e-6)
    query = unit(7 * fuse(image, text) + 2 * VECTORS["p05", SPACE_PRODUCT])
    assert_same_ranking(response, rank_by_brute_force({SPACE_PRODUCT: (query, 1)}, without=(5,)))


async def test_photos_and_texts_of_negative_weight_are_each_a_product_of_their_own() -> None:
    examples = [photo(1, 2), words(2, -1), photo(3, -0.5), words(4)]
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(SearchRequest(examples=examples, space=SPACE_PRODUCT))
        assert sum(map(len, system.product_encoder.batches)) == 3
    parts = 3 * fuse(image_of(1), text_of(4)) - fuse(None, text_of(2)) - 0.5 * fuse(image_of(3), None)
    assert_same_ranking(response, rank_by_brute_force({SPACE_PRODUCT: (unit(parts), 1)}))


async def test_a_vector_of_the_product_space_is_searched_without_the_product_encoder() -> None:
    async with scripted_system(spaces=ALL) as system:
        vector = Example(vector=pack(VECTORS["p03", SPACE_PRODUCT]))
        response = await system.search.Search(SearchRequest(examples=[vector], space=SPACE_PRODUCT))
    assert response.hits[0].product.id == "p03"


async def test_concurrent_queries_are_fused_in_batches() -> None:
    async with scripted_system(spaces=ALL, cache_ttl_s=0) as system:
        requests = [SearchRequest(examples=[words(i)], space=SPACE_PRODUCT) for i in range(17)]
        responses = await asyncio.gather(*(system.search.Search(request) for request in requests * 3))
        batches = [len(batch) for batch in system.product_encoder.batches]
    # Of 51 requests, equal ones in flight at the same time share one search.
    assert max(batches) > 1
    for i, response in enumerate(responses):
        assert_same_ranking(response, rank_by_brute_force({SPACE_PRODUCT: (fuse(None, text_of(i % 17)), 1)}))


@pytest.mark.parametrize(
    ("mismatch", "reason"),
    [
        ({"image_encoder": "encoder-other"}, "the photo was encoded by encoder-1; encoder-3 takes encoder-other"),
        ({"text_encoder": "encoder-other"}, "the text was encoded by encoder-2; encoder-3 takes encoder-other"),
        ({"fingerprint": "encoder-other"}, "the encoder is encoder-other, the index was built with encoder-3"),
    ],
)
async def test_a_product_encoder_that_does_not_match_the_encoders_or_the_index_is_refused(
    mismatch: dict[str, str], reason: str
) -> None:
    async with scripted_system(spaces=ALL) as system:
        for name, value in mismatch.items():
            setattr(system.product_encoder, name, value)
        request = SearchRequest(examples=[photo(7), words(7)], space=SPACE_PRODUCT)
        assert reason in await details_of(system.search.Search(request), grpc.StatusCode.FAILED_PRECONDITION)


async def test_without_a_product_encoder_only_the_queries_that_need_it_fail() -> None:
    async with scripted_system(spaces=ALL, product_encoder=False) as system:
        for examples in ([photo(7)], [photo(7), words(7)], [photo(7), product(1), words(7)]):
            details = await details_of(
                system.search.Search(SearchRequest(examples=examples)), grpc.StatusCode.FAILED_PRECONDITION
            )
            assert "no product encoder is deployed" in details
        for request in (
            SearchRequest(examples=[product(7)], space=SPACE_PRODUCT),
            SearchRequest(examples=[photo(7), words(7)], weights=weights(image=1, text=1)),
            SearchRequest(examples=[words(7)], space=SPACE_TEXT),
        ):
            assert (await system.search.Search(request)).hits


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            FailedPrecondition("this process has no product encoder"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "this process has no product encoder",
        ),
        (
            InvalidRequest("inputs[0].image", "has 8 dimensions"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "inputs[0].image: has 8 dimensions",
        ),
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
        (Unavailable("still loading"), grpc.StatusCode.UNAVAILABLE, "product encoder is not available"),
    ],
    ids=["no encoder", "dimensions", "full", "loading"],
)
async def test_errors_of_the_product_encoder_are_passed_on(
    error: LookalikeError, code: grpc.StatusCode, told: str
) -> None:
    async with scripted_system(spaces=ALL) as system:
        system.product_encoder.error = error
        request = SearchRequest(examples=[photo(7), words(7)], space=SPACE_PRODUCT)
        assert told in await details_of(system.search.Search(request), code)
        assert (await system.search.Search(SearchRequest(examples=[photo(7)], space=SPACE_IMAGE))).hits


@pytest.mark.parametrize(
    "vectors",
    [np.full((1, 8), np.nan), np.full((1, 8), 2.0), np.zeros((1, 8)), np.eye(2, 8), np.zeros((0, 8))],
    ids=["NaN", "not of unit length", "zeros", "two for one", "none"],
)
async def test_a_product_encoder_response_that_breaks_the_contract_is_unavailable(vectors: F32) -> None:
    async with scripted_system(spaces=ALL) as system:
        system.product_encoder.vectors = vectors.astype(np.float32)
        request = SearchRequest(examples=[photo(7)], space=SPACE_PRODUCT)
        assert "product encoder" in await details_of(system.search.Search(request), grpc.StatusCode.UNAVAILABLE)


async def test_a_text_without_known_words_is_left_out_in_every_space() -> None:
    examples = [photo(7), Example(text="☺")]
    by_photo = {SPACE_PRODUCT: (fuse(image_of(7), None), 1.0)}
    async with scripted_system(spaces=ALL) as system:
        for request, ranking in (
            (SearchRequest(examples=examples), by_photo),
            (SearchRequest(examples=examples, space=SPACE_PRODUCT), by_photo),
            (SearchRequest(examples=examples, weights=weights(image=1, text=1)), {SPACE_IMAGE: (image_of(7), 1.0)}),
        ):
            response = await system.search.Search(request)
            assert_same_ranking(response, rank_by_brute_force(ranking))
            assert any("examples[1].text" in reason for reason in response.provenance.degraded)


async def test_a_late_fusion_is_the_weighted_mean_of_the_cosines_in_all_its_spaces() -> None:
    examples = [photo(7), words(8)]
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(
            SearchRequest(examples=examples, weights=weights(text=1, image=3), limit=20)
        )
    assert_same_ranking(
        response, rank_by_brute_force({SPACE_IMAGE: (image_of(7), 0.75), SPACE_TEXT: (text_of(8), 0.25)})
    )
    assert len(response.hits) == 20  # Also the product without a photo.
    provenance = response.provenance
    assert list(provenance.spaces) == [
        SearchedSpace(space=SPACE_IMAGE, encoder="encoder-1", weight=0.75),
        SearchedSpace(space=SPACE_TEXT, encoder="encoder-2", weight=0.25),
    ]
    assert (provenance.documents_searched, provenance.documents_total, provenance.coverage) == (39, 39, 1)
    assert all(not hit.scores for hit in response.hits)


async def test_explained_hits_have_the_cosine_in_each_space_and_0_without_a_vector() -> None:
    request = SearchRequest(examples=[product(7)], weights=weights(image=1, text=1), limit=20, explain=True)
    async with scripted_system(spaces=ALL) as system:
        first = await system.search.Search(request)
        again = await system.search.Search(request)
        single = await system.search.Search(SearchRequest(examples=[product(7)], space=SPACE_TEXT, explain=True))
    for hit in first.hits:
        cosines = [
            float(VECTORS[hit.product.id, space] @ VECTORS["p07", space]) if (hit.product.id, space) in VECTORS else 0
            for space in (SPACE_IMAGE, SPACE_TEXT)
        ]
        assert [each.space for each in hit.scores] == [SPACE_IMAGE, SPACE_TEXT]
        assert [each.score for each in hit.scores] == pytest.approx(cosines, abs=1e-6)
        assert hit.score == pytest.approx(sum(cosines) / 2, abs=1e-6)
    assert "p19" in {hit.product.id for hit in first.hits}
    assert (again.provenance.cached, again.hits) == (True, first.hits)
    assert [each.space for each in single.hits[0].scores] == [SPACE_TEXT]
    assert single.hits[0].scores[0].score == single.hits[0].score


async def test_each_photo_and_text_is_encoded_once_whatever_spaces_it_counts_in() -> None:
    examples = [photo(7), words(8), photo(9, -1)]
    async with scripted_system(spaces=ALL) as system:
        request = SearchRequest(examples=examples, weights=weights(image=1, text=1, product=2))
        response = await system.search.Search(request)
        assert (sorted(system.model_server.photos), system.text_encoder.texts) == ([7, 9], ["p08"])
        assert sum(map(len, system.product_encoder.batches)) == 2
    image = unit(image_of(7) - image_of(9))
    both = unit(2 * fuse(image_of(7), text_of(8)) - fuse(image_of(9), None))
    assert_same_ranking(
        response,
        rank_by_brute_force({SPACE_IMAGE: (image, 0.25), SPACE_TEXT: (text_of(8), 0.25), SPACE_PRODUCT: (both, 0.5)}),
    )


async def test_photos_and_texts_of_one_request_are_encoded_concurrently() -> None:
    async with scripted_system(spaces=ALL) as system:
        system.model_server.waits_for = system.text_encoder.received
        request = SearchRequest(examples=[photo(7), words(7)], space=SPACE_PRODUCT)
        assert (await system.search.Search(request, timeout=30)).hits[0].product.id == "p07"


async def test_a_space_in_which_no_example_has_a_vector_is_not_searched_and_the_answer_says_so() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await system.search.Search(SearchRequest(examples=[product(19)], weights=weights(image=3, text=1)))
        mixed_request = SearchRequest(examples=[product(19), photo(7)], weights=weights(image=1, text=1))
        mixed = await system.search.Search(mixed_request)
    assert_same_ranking(response, rank_by_brute_force({SPACE_TEXT: (text_of(19), 1)}, without=(19,)))
    assert list(response.provenance.spaces) == [SearchedSpace(space=SPACE_TEXT, encoder="encoder-2", weight=1)]
    assert list(response.provenance.degraded) == ["product p19 has no image vector: that space was not searched"]
    assert_same_ranking(
        mixed, rank_by_brute_force({SPACE_IMAGE: (image_of(7), 0.5), SPACE_TEXT: (text_of(19), 0.5)}, without=(19,))
    )
    assert list(mixed.provenance.degraded) == ["product p19 has no image vector: only the other examples count there"]


async def test_a_late_fusion_of_unbuilt_spaces_or_missing_vectors_is_refused() -> None:
    async with scripted_system() as system:
        unbuilt = SearchRequest(examples=[product(7)], weights=weights(image=1, product=1))
        details = await details_of(system.search.Search(unbuilt), grpc.StatusCode.FAILED_PRECONDITION)
        assert "no product space; it has: image, text" in details
        none = SearchRequest(examples=[product(19), photo(7)], weights=weights(image=1))
        assert "p19 has no image vector" in await details_of(system.search.Search(none), grpc.StatusCode.NOT_FOUND)
        assert system.model_server.photos == []  # Nothing was encoded for a search that cannot succeed.
        words_alone = SearchRequest(examples=[words(7)], weights=weights(image=1, text=1))
        details = await details_of(system.search.Search(words_alone), grpc.StatusCode.INVALID_ARGUMENT)
        assert details.startswith("weights[0].space: no example can be compared in the image space")


async def test_a_missing_shard_lowers_the_coverage_of_every_space_of_a_late_fusion() -> None:
    async with scripted_system(spaces=ALL) as system:
        system.shards[1].error = Unavailable("broken")
        request = SearchRequest(examples=[photo(7), words(7)], weights=weights(image=1, text=1), limit=20)
        response = await system.search.Search(request)
    reachable = {each.id for each in system.shards[0].products}
    searched = sum(product_id in reachable for product_id, space in VECTORS if space in (SPACE_IMAGE, SPACE_TEXT))
    assert (response.provenance.documents_searched, response.provenance.documents_total) == (searched, 39)
    assert {hit.product.id for hit in response.hits} == reachable


async def test_auto_takes_the_first_preferred_space_that_is_built_and_names_the_policy_entry() -> None:
    async with scripted_system(spaces=ALL) as all_spaces, scripted_system() as no_product_space:
        for system, product_id, space, entry in (
            (all_spaces, 7, SPACE_PRODUCT, "fashion=product>image"),
            (all_spaces, 8, SPACE_PRODUCT, "*=product>text"),
            (all_spaces, 17, SPACE_IMAGE, "fashion=product>image"),  # It is not in the product space.
            (no_product_space, 7, SPACE_IMAGE, "fashion=product>image"),
            (no_product_space, 8, SPACE_TEXT, "*=product>text"),
            (no_product_space, 19, SPACE_TEXT, ""),  # Fashion without a photo: no entry covers that.
        ):
            response = await system.search.Search(SearchRequest(examples=[product(product_id)]))
            assert (spaces(response), response.provenance.policy) == ([space], entry)


async def test_a_product_is_looked_up_with_the_vectors_of_the_spaces_that_it_may_be_searched_in() -> None:
    image_and_text = weights(image=1, text=1)
    for request, looked_up in (
        (SearchRequest(examples=[product(7)], space=SPACE_TEXT), [[SPACE_TEXT]]),
        (SearchRequest(examples=[product(7)], weights=image_and_text), [[SPACE_IMAGE, SPACE_TEXT]]),
        (SearchRequest(examples=[product(7)]), [[SPACE_PRODUCT]]),  # What every category prefers.
        (SearchRequest(examples=[product(17)]), [[SPACE_PRODUCT], [*ALL]]),  # It is not in the product space.
    ):
        async with scripted_system(spaces=ALL) as system:
            await system.search.Search(request)
            assert [list(fetch.vectors) for shard in system.shards for fetch in shard.fetches] == looked_up
    async with scripted_system() as system:
        await system.search.Search(SearchRequest(examples=[product(7)]))
        (fetch,) = (fetch for shard in system.shards for fetch in shard.fetches)
        assert list(fetch.vectors) == [SPACE_IMAGE, SPACE_TEXT]  # Without a product space it depends on the category.


async def test_products_looked_up_at_once_for_different_spaces_are_each_searched_in_their_own() -> None:
    async with scripted_system(spaces=ALL) as system:
        requests = [SearchRequest(examples=[product(7)], space=space) for space in ALL]
        responses = await asyncio.gather(*(system.search.Search(request) for request in requests))
    assert [spaces(response) for response in responses] == [[space] for space in ALL]


async def test_the_auto_policy_is_configurable() -> None:
    policy = ("fashion/shoes=text>product", "*=image")
    async with scripted_system(spaces=ALL, auto_policy=policy, auto_photo="image", auto_text="text>product") as system:
        for examples, space, entry in (
            ([product(7)], SPACE_TEXT, "fashion/shoes=text>product"),
            ([product(8)], SPACE_IMAGE, "*=image"),
            ([photo(7)], SPACE_IMAGE, "auto_photo=image"),
            ([words(7)], SPACE_TEXT, "auto_text=text>product"),
        ):
            response = await system.search.Search(SearchRequest(examples=examples))
            assert (spaces(response), response.provenance.policy) == ([space], entry)


async def test_a_product_without_a_vector_in_its_preferred_spaces_is_searched_in_another_and_the_answer_says_so() -> (
    None
):
    async with scripted_system(spaces=ALL, auto_policy=("*=image",)) as system:
        provenance = (await system.search.Search(SearchRequest(examples=[product(19)]))).provenance
    assert ([each.space for each in provenance.spaces], provenance.policy) == ([SPACE_TEXT], "")
    assert list(provenance.degraded) == ["product p19 has no image vector: searched in the text space instead"]


async def test_auto_searches_a_photo_or_a_text_in_the_product_space_where_it_is_built() -> None:
    async with scripted_system(spaces=ALL) as system:
        by_photo = await system.search.Search(SearchRequest(examples=[photo(7)]))
        by_words = await system.search.Search(SearchRequest(examples=[words(7)]))
    assert_same_ranking(by_photo, rank_by_brute_force({SPACE_PRODUCT: (fuse(image_of(7), None), 1)}))
    assert_same_ranking(by_words, rank_by_brute_force({SPACE_PRODUCT: (fuse(None, text_of(7)), 1)}))
    entries = [response.provenance.policy for response in (by_photo, by_words)]
    assert entries == ["auto_photo=product>image", "auto_text=measured>product>text"]


async def test_auto_searches_a_text_in_the_spaces_that_the_version_states_unless_the_policy_names_others() -> None:
    measured = {SPACE_TEXT: 0.3, SPACE_PRODUCT: 0.7}
    in_both = {SPACE_TEXT: (text_of(7), 0.3), SPACE_PRODUCT: (fuse(None, text_of(7)), 0.7)}
    async with scripted_system(spaces=ALL, text_shares=measured) as system:
        response = await system.search.Search(SearchRequest(examples=[words(7)]))
        photo_too = await system.search.Search(SearchRequest(examples=[words(7), photo(7)]))
    assert_same_ranking(response, rank_by_brute_force(in_both))
    assert response.provenance.policy == "auto_text=measured>product>text"
    assert spaces(photo_too) == [SPACE_PRODUCT]
    async with scripted_system(spaces=ALL, text_shares=measured, auto_text="text") as system:
        response = await system.search.Search(SearchRequest(examples=[words(7)]))
    assert spaces(response) == [SPACE_TEXT]


async def test_auto_searches_a_photo_or_a_text_in_its_own_space_without_a_product_space_or_beside_a_product() -> None:
    async with scripted_system() as system:
        for examples, space, entry in (
            ([photo(7)], SPACE_IMAGE, "auto_photo=product>image"),
            ([words(7)], SPACE_TEXT, "auto_text=measured>product>text"),
        ):
            response = await system.search.Search(SearchRequest(examples=examples))
            assert (spaces(response), response.provenance.policy) == ([space], entry)
    async with scripted_system(spaces=ALL) as system:
        for examples, space in (
            ([photo(7), product(8)], SPACE_IMAGE),
            ([words(7), product(8)], SPACE_TEXT),
            ([photo(7), words(7)], SPACE_PRODUCT),
            ([product(8), words(7), photo(7)], SPACE_PRODUCT),
        ):
            response = await system.search.Search(SearchRequest(examples=examples))
            assert (spaces(response), response.provenance.policy) == ([space], "")


async def test_auto_searches_a_photo_with_a_text_half_and_half_without_a_product_space() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[photo(7), words(8, 5)]))
    assert_same_ranking(response, rank_by_brute_force({SPACE_IMAGE: (image_of(7), 0.5), SPACE_TEXT: (text_of(8), 0.5)}))
    assert [(each.space, each.weight) for each in response.provenance.spaces] == [(SPACE_IMAGE, 0.5), (SPACE_TEXT, 0.5)]


async def test_auto_never_searches_photos_in_the_text_space_or_texts_in_the_image_space() -> None:
    async with scripted_system(spaces=(SPACE_TEXT, SPACE_PRODUCT), auto_photo="image") as system:
        details = await details_of(
            system.search.Search(SearchRequest(examples=[photo(7)])), grpc.StatusCode.FAILED_PRECONDITION
        )
        assert "no image space; it has: text, product" in details


async def test_a_search_of_the_image_space_says_that_its_encoder_is_untrained() -> None:
    async with scripted_system(spaces=ALL, image_encoder=UNTRAINED) as system:
        by_image = await system.search.Search(SearchRequest(examples=[product(7)], weights=weights(image=1, text=1)))
        by_text = await system.search.Search(SearchRequest(examples=[product(7)], space=SPACE_TEXT))
    assert [reason.split(":")[0] for reason in by_image.provenance.degraded] == ["the image encoder is untrained"]
    assert not by_text.provenance.degraded


async def test_a_search_of_the_product_space_says_that_its_encoder_was_trained_on_an_untrained_one() -> None:
    async with scripted_system(spaces=ALL, product_encoder_name="product-untrained-0") as system:
        response = await system.search.Search(SearchRequest(examples=[photo(7)], space=SPACE_PRODUCT))
    assert list(response.provenance.degraded) == [
        "the product encoder was trained on an untrained image encoder: photos have little effect"
    ]


async def test_cached_values_of_another_format_are_not_read(redis_url: str) -> None:
    from redis.asyncio import Redis

    async with scripted_system(redis=redis_url, cache_timeout_s=2) as system, Redis.from_url(redis_url) as redis:
        request = SearchRequest(examples=[product(7)])
        await system.search.Search(request)
        keys: list[Any] = []
        for _ in range(50):
            if keys := await redis.keys("lookalike:search:*"):
                break
            await asyncio.sleep(0.02)
        (key,) = keys
        assert key.startswith(b"lookalike:search:3:")
        await redis.set(key.replace(b":3:", b":2:"), b"\x01\x00\x00\x00\x00")
        await redis.delete(key)
        assert not (await system.search.Search(request)).provenance.cached
