"""Searches and catalogue reads through a real gateway over gRPC, with complete and partial answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import REGISTRY

from lookalike.errors import Overloaded, Unavailable
from lookalike.v1.catalog_pb2 import CountRequest, ExistsRequest, GetRequest, ListRequest
from lookalike.v1.search_pb2 import (
    ClassifyRequest,
    Example,
    FindDuplicatesRequest,
    SearchedSpace,
    SearchRequest,
    SearchResponse,
)
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Filter, Space, SpaceWeight
from lookalike.vectors import pack
from tests.rpc.gateways import PRODUCTS, VECTORS, ScriptedSystem, a_photo, scripted_system

P7 = Example(product_id="p07")


def nearest(product_id: str, space: Space.ValueType, without: tuple[str, ...] = ()) -> list[str]:
    """The other products by falling cosine, by brute force."""
    query = VECTORS[product_id, space]
    scored = sorted((-float(v @ query), p) for (p, s), v in VECTORS.items() if s == space)
    return [p for _, p in scored if p not in (product_id, *without)]


def ids(response: SearchResponse) -> list[str]:
    return [hit.product.id for hit in response.hits]


def spaces(response: SearchResponse) -> list[Space.ValueType]:
    return [each.space for each in response.provenance.spaces]


async def error_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def test_a_product_query_ranks_the_hits_of_all_shards_without_the_product_itself() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[P7], limit=5))
    assert ids(response) == nearest("p07", SPACE_IMAGE)[:5]
    assert response.hits[0].product.title == PRODUCTS[int(ids(response)[0][1:])].title
    provenance = response.provenance
    assert provenance.version == "v1"
    assert list(provenance.spaces) == [SearchedSpace(space=SPACE_IMAGE, encoder="encoder-1", weight=1)]
    assert (provenance.coverage, provenance.documents_searched, provenance.documents_total) == (1, 19, 19)
    assert (provenance.shards_asked, provenance.shards_answered, provenance.cached) == (2, 2, False)
    assert provenance.timings.total_s >= provenance.timings.search_s > 0
    assert list(provenance.degraded) == []


async def test_auto_chooses_the_space_by_the_products_category_and_vectors() -> None:
    async with scripted_system() as system:
        for product_id, space in (("p07", SPACE_IMAGE), ("p08", SPACE_TEXT), ("p19", SPACE_TEXT)):
            response = await system.search.Search(SearchRequest(examples=[Example(product_id=product_id)]))
            assert spaces(response) == [space]
            assert ids(response) == nearest(product_id, space)[:10]


async def test_a_text_and_a_vector_find_their_product_first() -> None:
    vector = Example(vector=pack(VECTORS["p03", SPACE_IMAGE] * np.float32(7)))
    async with scripted_system() as system:
        by_text = await system.search.Search(SearchRequest(examples=[Example(text="p07")]))
        by_vector = await system.search.Search(SearchRequest(examples=[vector], space=SPACE_IMAGE, exact=True))
    assert (ids(by_text)[0], spaces(by_text)) == ("p07", [SPACE_TEXT])
    assert (ids(by_vector)[0], by_vector.provenance.exact) == ("p03", True)
    assert by_vector.hits[0].score == pytest.approx(1)


async def test_several_products_are_combined_into_one_query_and_are_not_hits() -> None:
    examples = [P7, Example(product_id="p09", weight=0.5), Example(product_id="p11", weight=-1)]
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=examples, limit=20))
    query = sum(w * VECTORS[p, SPACE_IMAGE] for p, w in (("p07", 1), ("p09", 0.5), ("p11", -1)))
    scored = sorted((-float(v @ query), p) for (p, s), v in VECTORS.items() if s == SPACE_IMAGE)
    assert ids(response) == [p for _, p in scored if p not in ("p07", "p09", "p11")]


async def test_hits_from_the_products_own_shop_can_be_excluded() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[P7], exclude_same_shop=True, limit=20))
    assert {hit.product.shop for hit in response.hits} == {"shop0", "shop1", "shop2"}


async def test_a_repeated_search_is_answered_from_the_cache_and_says_so() -> None:
    async with scripted_system() as system:
        first = await system.search.Search(SearchRequest(examples=[P7]))
        batches = [len(shard.batches) for shard in system.shards]
        again = await system.search.Search(SearchRequest(examples=[P7], min_coverage=1))
        same = await system.search.Search(SearchRequest(examples=[P7]))
        assert [len(shard.batches) for shard in system.shards] == batches
    assert [each.provenance.cached for each in (first, again, same)] == [False, True, True]
    assert again.hits == same.hits == first.hits
    assert (again.provenance.version, again.provenance.coverage) == ("v1", 1)
    assert again.provenance.timings.search_s == 0 < again.provenance.timings.total_s


async def test_concurrent_equal_searches_reach_the_shards_once() -> None:
    async with scripted_system(cache_ttl_s=0) as system:
        calls = [system.search.Search(SearchRequest(examples=[P7])) for _ in range(50)]
        responses = await asyncio.gather(*calls)
        assert sum(sum(shard.batches) for shard in system.shards) < 50
    assert all(ids(response) == ids(responses[0]) for response in responses)


async def test_concurrent_different_searches_go_to_a_shard_in_batches() -> None:
    async with scripted_system(cache_ttl_s=0) as system:
        vectors = [Example(vector=pack(vector)) for (_, space), vector in VECTORS.items() if space == SPACE_TEXT]
        calls = [
            system.search.Search(SearchRequest(examples=[v], space=SPACE_TEXT, limit=k))
            for v in vectors
            for k in (1, 2, 3)
        ]
        await asyncio.gather(*calls)
        for shard in system.shards:
            assert sum(shard.batches) == len(calls)
            assert len(shard.batches) < len(calls)


async def test_without_a_broken_shard_the_answer_is_partial_says_so_and_is_not_cached() -> None:
    async with scripted_system() as system:
        system.shards[1].error = Unavailable("broken")
        vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
        request = SearchRequest(examples=[vector], space=SPACE_TEXT, limit=20)
        partial = await system.search.Search(request)
        refused = await error_of(
            system.search.Search(SearchRequest(examples=[vector], space=SPACE_TEXT, min_coverage=0.9))
        )
        system.shards[1].error = None
        async with asyncio.timeout(30):
            while (whole := await system.search.Search(request)).provenance.coverage < 1:  # noqa: ASYNC110  # a probe brings it back
                await asyncio.sleep(0.02)
    assert 0 < partial.provenance.coverage < 1
    assert partial.provenance.documents_searched == len(partial.hits)
    assert (partial.provenance.shards_asked, partial.provenance.shards_answered) == (2, 1)
    assert partial.provenance.degraded[0] == "shard 1 is not available"
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert "coverage" in (refused.details() or "")
    assert (whole.provenance.coverage, whole.provenance.cached, len(whole.hits)) == (1, False, 20)


async def test_a_hanging_shard_delays_the_answer_by_its_time_out_and_no_more() -> None:
    async with scripted_system(shard_timeout_s=0.2) as system:
        system.shards[0].hang = True
        vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
        response = await system.search.Search(SearchRequest(examples=[vector], space=SPACE_TEXT))
        assert response.provenance.shards_answered == 1
        assert "no answer within" in response.provenance.degraded[0]


async def test_without_any_shard_a_search_is_unavailable_or_ends_at_its_deadline() -> None:
    vector = SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT)
    async with scripted_system(shard_timeout_s=60, shard_hang_s=60) as system:
        for shard in system.shards:
            shard.hang = True
        start_s = time.monotonic()
        error = await error_of(system.search.Search(vector, timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start_s < 30  # Not the shards' time-out of a minute.
    async with scripted_system() as system:
        for shard in system.shards:
            shard.error = Unavailable("broken")
        assert (await error_of(system.search.Search(vector))).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_without_a_deadline_has_the_default_deadline() -> None:
    async with scripted_system(shard_timeout_s=60, default_deadline_s=0.2) as system:
        for shard in system.shards:
            shard.hang = True
        vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
        error = await error_of(system.search.Search(SearchRequest(examples=[vector], space=SPACE_TEXT)))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_shard_of_another_version_is_missing_from_answers_until_all_have_changed() -> None:
    vector = SearchRequest(examples=[Example(vector=pack(VECTORS["p03", SPACE_TEXT]))], space=SPACE_TEXT)
    async with scripted_system(cache_ttl_s=0) as system:
        system.shards[0].version = "v2"
        response = await system.search.Search(vector)
        assert (response.provenance.version, response.provenance.shards_answered) == ("v1", 1)
        system.shards[1].version = "v2"
        await asyncio.sleep(0.3)
        response = await system.search.Search(vector)
        assert (response.provenance.version, response.provenance.coverage) == ("v2", 1)


async def test_a_product_whose_shard_does_not_serve_the_pinned_version_is_to_be_asked_for_again() -> None:
    """As a shard that was started again, which serves what CURRENT names before the gateway has moved."""
    async with scripted_system(cache_ttl_s=0, refresh_s=60.0) as system:
        for shard in system.shards:
            shard.version = "v2"
        for call in (
            system.search.Search(SearchRequest(examples=[P7])),
            system.catalog.Get(GetRequest(product_id="p07")),
        ):
            assert (await error_of(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_the_field_of_a_malformed_request_is_in_the_status_details() -> None:
    async with scripted_system() as system:
        error = await error_of(system.search.Search(SearchRequest(examples=[P7], limit=0)))
        wrong_dimension = await error_of(
            system.search.Search(SearchRequest(examples=[Example(vector=bytes(4))], space=SPACE_TEXT))
        )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    bad_request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "limit"
    assert "examples[0].vector: has 1 dimensions, the space has 8" in (wrong_dimension.details() or "")


async def test_bytes_that_cannot_be_parsed_are_an_invalid_argument() -> None:
    """Filters nested 150 deep are more than a protobuf parser accepts."""
    nested = Filter(in_stock=True).SerializeToString()
    for _ in range(150):
        nested = nest(nested)
    async with scripted_system() as system:
        channel: Any = system.channel  # Its type has no calls without a serializer.
        for method, data in (
            ("SimilarProducts/Search", b"\xff"),
            ("SimilarProducts/Search", b"\x22" + with_length(nested)),  # 4: filter.
            ("Catalog/Count", b"\x0a" + with_length(nested)),
        ):
            error = await error_of(channel.unary_unary(f"/lookalike.v1.{method}")(data))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.details() or "").startswith("request: not a valid lookalike.v1.")
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            [page async for page in channel.unary_stream("/lookalike.v1.Catalog/List")(b"\xff")]


def nest(serialized: bytes) -> bytes:
    """Serialize a filter whose any_of (field 12) is this one; by hand, as the library refuses to nest so deep."""
    return b"\x62" + with_length(serialized)


def with_length(data: bytes) -> bytes:
    """The data after its length as a protobuf varint."""
    low, rest = [], len(data)
    while rest > 127:
        low.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*low, rest]) + data


async def test_unknown_products_and_missing_vectors_are_not_found() -> None:
    async with scripted_system() as system:
        for request in (
            SearchRequest(examples=[Example(product_id="nobody")]),
            SearchRequest(examples=[Example(product_id="p19")], space=SPACE_IMAGE),
        ):
            assert (await error_of(system.search.Search(request))).code() is grpc.StatusCode.NOT_FOUND


async def test_an_encoder_that_is_down_fails_only_the_queries_that_need_it() -> None:
    photo = SearchRequest(examples=[Example(image=a_photo(3))])
    async with scripted_system(model_server="127.0.0.1:1") as system:
        assert (await error_of(system.search.Search(photo))).code() is grpc.StatusCode.UNAVAILABLE
        assert ids(await system.search.Search(SearchRequest(examples=[P7])))
        assert ids(await system.search.Search(SearchRequest(examples=[Example(text="p07")])))
        system.text_encoder.error = Overloaded("full", retry_after_s=1)
        overload = await error_of(system.search.Search(SearchRequest(examples=[Example(text="p08")])))
        assert overload.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_photo_are_refused_before_they_are_encoded() -> None:
    async with scripted_system(model_server="127.0.0.1:1") as system:
        for data in (b"no photo", a_photo(3)[:-40]):
            error = await error_of(system.search.Search(SearchRequest(examples=[Example(image=data)])))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "examples[0].image" in (error.details() or "")


async def test_vectors_of_another_encoder_than_that_of_the_index_are_refused() -> None:
    async with scripted_system() as system:
        system.text_encoder.fingerprint = "encoder-other"
        error = await error_of(system.search.Search(SearchRequest(examples=[Example(text="p07")])))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "encoder-other" in (error.details() or "")


@pytest.mark.parametrize("text", ["☺☺☺", "zzzqqq"])
async def test_words_alone_that_say_nothing_get_an_answer_without_hits_and_the_reason(text: str) -> None:
    async with scripted_system() as system:
        request = SearchRequest(examples=[Example(text=text)], min_coverage=1, min_score=0.5, limit=3)
        search = await system.search.Search(request)
        again = await system.search.Search(request)
        classification = await system.search.Classify(ClassifyRequest(text=text))
    reason = "examples[0].text: the text encoder knows no word of it: nothing was searched for"
    assert (list(search.hits), list(search.provenance.degraded)) == ([], [reason])
    assert (search.provenance.coverage, search.provenance.shards_asked) == (1, 0)
    assert (list(again.provenance.degraded), again.provenance.version) == ([reason], search.provenance.version)
    assert classification.abstention_reason == "the text encoder knows no word of the text"
    assert (classification.category, list(classification.categories)) == ("", [])


@pytest.mark.parametrize(
    "weights", [(), (SpaceWeight(space=SPACE_IMAGE, weight=1), SpaceWeight(space=SPACE_TEXT, weight=3))]
)
async def test_a_photo_with_words_that_say_nothing_goes_by_the_photo_and_says_so(
    weights: tuple[SpaceWeight, ...],
) -> None:
    photo = Example(image=a_photo(3))
    async with scripted_system() as system:
        alone = await system.search.Search(SearchRequest(examples=[photo]))
        request = SearchRequest(examples=[photo, Example(text="zzzqqq")], weights=weights)
        both, cached = await system.search.Search(request), await system.search.Search(request)
    assert [hit.product.id for hit in both.hits] == [hit.product.id for hit in alone.hits]
    assert [space.space for space in both.provenance.spaces] == [SPACE_IMAGE]
    reason = "examples[1].text: the text encoder knows no word of it: the other examples alone count"
    assert reason in both.provenance.degraded
    assert cached.provenance.cached
    assert reason in cached.provenance.degraded


async def test_a_vector_beside_words_that_say_nothing_is_searched_in_the_space_of_the_words() -> None:
    examples = [Example(vector=pack(VECTORS["p03", SPACE_TEXT])), Example(text="zzzqqq")]
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=examples))
    assert response.hits[0].product.id == "p03"
    assert [space.space for space in response.provenance.spaces] == [SPACE_TEXT]


async def test_known_words_beside_unknown_ones_are_searched_for() -> None:
    async with scripted_system() as system:
        response = await system.search.Search(SearchRequest(examples=[Example(text="p07"), Example(text="zzzqqq")]))
    assert response.hits[0].product.id == "p07"
    assert len(response.provenance.degraded) == 1


async def test_beyond_max_inflight_a_call_is_refused_at_once_with_a_retry_delay() -> None:
    async with scripted_system(max_inflight=1, cache_ttl_s=0) as system:
        system.shards[0].hang = True
        vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
        first = system.search.Search(SearchRequest(examples=[vector], space=SPACE_TEXT), timeout=30)
        await asyncio.sleep(0.2)
        error = await error_of(system.search.Search(SearchRequest(examples=[P7])))
        first.cancel()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0


async def test_a_redis_that_is_down_costs_cache_hits_and_nothing_else() -> None:
    async with scripted_system(redis="redis://127.0.0.1:1") as system:
        for _ in range(3):
            response = await system.search.Search(SearchRequest(examples=[P7]))
            assert (response.provenance.cached, response.provenance.coverage) == (False, 1)


async def test_answers_cached_in_redis_are_shared_by_gateways(redis_url: str) -> None:
    async with scripted_system(redis=redis_url, cache_timeout_s=2) as system:
        first = await system.search.Search(SearchRequest(examples=[P7]))
        while not (await system.search.Search(SearchRequest(examples=[P7]))).provenance.cached:  # noqa: ASYNC110  # Redis changes it
            await asyncio.sleep(0.01)
    async with scripted_system(redis=redis_url, cache_timeout_s=2) as system:
        again = await system.search.Search(SearchRequest(examples=[P7]))
    assert again.provenance.cached
    assert again.hits == first.hits


async def test_get_returns_the_vectors_of_the_requested_spaces_that_there_are() -> None:
    async with scripted_system() as system:
        request = GetRequest(product_id="p07", vectors=[SPACE_TEXT, SPACE_PRODUCT])
        (vector,) = (await system.catalog.Get(request)).vectors
        assert (vector.space, vector.vector) == (SPACE_TEXT, pack(VECTORS["p07", SPACE_TEXT]))
        assert not (await system.catalog.Get(GetRequest(product_id="p07"))).vectors


async def test_the_catalogue_is_read_completely_and_in_order() -> None:
    async with scripted_system() as system:
        assert (await system.catalog.Get(GetRequest(product_id="p07"))).product.title == "product 7"
        exists = await system.catalog.Exists(ExistsRequest(product_ids=["p07", "nobody", "p08"]))
        assert list(exists.exists) == [True, False, True]
        assert (await system.catalog.Count(CountRequest())).count == 20
        listed = [product.id async for product in system.catalog.List(ListRequest(after="p04", limit=10))]
        assert listed == [f"p{i:02}" for i in range(5, 15)]
        assert len([product async for product in system.catalog.List(ListRequest())]) == 20


async def test_without_a_shard_count_and_list_are_errors_and_not_partial() -> None:
    async with scripted_system() as system:
        assert REGISTRY.get_sample_value("lookalike_shards_serving") == 2
        await break_shard_1(system)
        assert REGISTRY.get_sample_value("lookalike_shards_serving") == 1
        assert (await error_of(system.catalog.Count(CountRequest()))).code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            [product async for product in system.catalog.List(ListRequest())]


async def test_malformed_catalogue_requests_name_their_field() -> None:
    async with scripted_system() as system:
        for call, field in (
            (system.catalog.Get(GetRequest()), "product_id"),
            (system.catalog.Exists(ExistsRequest()), "product_ids"),
            (system.catalog.Exists(ExistsRequest(product_ids=["p"] * 1001)), "product_ids"),
            (system.catalog.Exists(ExistsRequest(product_ids=["p", ""])), "product_ids[1]"),
            (system.catalog.Count(CountRequest(filter=Filter(shop_in=[""]))), "filter.shop_in"),
        ):
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.details() or "").startswith(field + ":")
        assert (await error_of(system.catalog.Get(GetRequest(product_id="nobody")))).code() is grpc.StatusCode.NOT_FOUND


async def break_shard_1(system: ScriptedSystem) -> None:
    system.shards[1].error = Unavailable("broken")
    await asyncio.sleep(0.2)  # Until the gateway has polled it.


async def test_a_filter_with_an_unknown_field_is_refused_by_every_method() -> None:
    newer = Filter.FromString(b"\xfa\x06\x03red")  # Field 111.
    async with scripted_system() as system:
        calls: tuple[Awaitable[object], ...] = (
            system.search.Search(SearchRequest(examples=[P7], filter=newer)),
            system.search.FindDuplicates(FindDuplicatesRequest(example=P7, filter=newer)),
            system.catalog.Count(CountRequest(filter=newer)),
            anext(aiter(system.catalog.List(ListRequest(filter=newer)))),
        )
        for call in calls:
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert error.details() == "filter: field 111 is unknown to this server"
