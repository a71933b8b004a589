"""FindDuplicates through a real gateway."""

from __future__ import annotations

import grpc
import pytest
from prometheus_client import REGISTRY

from lookalike.errors import Unavailable
from lookalike.v1.search_pb2 import Example, FindDuplicatesRequest, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, DuplicatesThreshold
from lookalike.vectors import pack
from tests.rpc.gateways import VECTORS, a_photo, scripted_system
from tests.rpc.test_gateway import P7, error_of, ids, nearest, spaces

VECTOR = Example(vector=pack(VECTORS["p03", SPACE_IMAGE]))


async def test_a_photo_a_title_and_a_vector_find_their_product_in_their_own_space() -> None:
    async with scripted_system() as system:
        for example, product_id, space in (
            (Example(image=a_photo(7)), "p07", SPACE_IMAGE),
            (Example(text="p08"), "p08", SPACE_TEXT),
            (VECTOR, "p03", SPACE_IMAGE),
        ):
            response = await system.search.FindDuplicates(FindDuplicatesRequest(example=example))
            assert (ids(response), spaces(response)) == ([product_id], [space])
            assert response.hits[0].score == pytest.approx(1)


async def test_duplicates_of_a_product_are_those_above_the_threshold_without_itself() -> None:
    request = FindDuplicatesRequest(example=P7, space=SPACE_TEXT, min_score=-1)
    async with scripted_system() as system:
        everything = await system.search.FindDuplicates(request)
        request.min_score = everything.hits[2].score
        three = await system.search.FindDuplicates(request)
        request.limit = 2
        two = await system.search.FindDuplicates(request)
        request.exclude_same_shop = True
        others = await system.search.FindDuplicates(request)
        none = await system.search.FindDuplicates(FindDuplicatesRequest(example=P7))
    assert ids(everything) == nearest("p07", SPACE_TEXT)
    assert [ids(three), three.truncated] == [ids(everything)[:3], False]
    assert [ids(two), two.truncated] == [ids(everything)[:2], True]
    assert "shop3" not in {hit.product.shop for hit in others.hits}
    assert [ids(none), spaces(none), none.provenance.coverage] == [[], [SPACE_IMAGE], 1]


async def test_without_a_min_score_it_is_what_the_version_states_for_the_space_searched() -> None:
    stated = DuplicatesThreshold(min_score=-0.5, precision=0.95, recall=0.7, queries=100, measured_by="stated groups")
    async with scripted_system(duplicates={SPACE_TEXT: stated}) as system:
        by_text = await system.search.FindDuplicates(FindDuplicatesRequest(example=P7, space=SPACE_TEXT))
        by_image = await system.search.FindDuplicates(FindDuplicatesRequest(example=P7, space=SPACE_IMAGE))
        by_request = await system.search.FindDuplicates(
            FindDuplicatesRequest(example=P7, space=SPACE_TEXT, min_score=0.5)
        )
        again = await system.search.FindDuplicates(FindDuplicatesRequest(example=P7, space=SPACE_TEXT))
        searched = await system.search.Search(SearchRequest(examples=[P7], space=SPACE_TEXT))
    assert by_text.threshold == stated
    scores = [hit.score for hit in by_text.hits]
    assert min(scores) >= -0.5
    assert len(scores) > len(by_request.hits)
    # Of another score than the version's own nothing is known.
    assert by_image.threshold == DuplicatesThreshold(min_score=0.95)
    assert by_request.threshold == DuplicatesThreshold(min_score=0.5)
    assert [again.provenance.cached, again.threshold, again.hits] == [True, stated, by_text.hits]
    assert not searched.HasField("threshold")


async def test_duplicates_share_their_cached_answer_with_the_equivalent_search() -> None:
    async with scripted_system() as system:
        duplicates = await system.search.FindDuplicates(
            FindDuplicatesRequest(example=P7, min_score=0, limit=5, explain=True)
        )
        search = SearchRequest(examples=[P7], space=SPACE_IMAGE, min_score=0, limit=5, explain=True)
        searched = await system.search.Search(search)
    assert searched.provenance.cached
    assert searched.hits == duplicates.hits
    assert REGISTRY.get_sample_value(
        "lookalike_request_seconds_count",
        {"method": "FindDuplicates", "space": "image", "outcome": "OK", "cached": "false"},
    )


async def test_a_malformed_request_is_refused_with_its_field() -> None:
    async with scripted_system() as system:
        for request, field in (
            (FindDuplicatesRequest(), "example"),
            (FindDuplicatesRequest(example=Example(product_id="p07", text="t")), "example"),
            (FindDuplicatesRequest(example=Example(product_id="")), "example.product_id"),
            (FindDuplicatesRequest(example=Example(text=" ")), "example.text"),
            (FindDuplicatesRequest(example=Example(product_id="p07", weight=1)), "example.weight"),
            (FindDuplicatesRequest(example=Example(image=a_photo(7)), space=SPACE_TEXT), "example.image"),
            (FindDuplicatesRequest(example=Example(image=b"no photo")), "example.image"),
            (FindDuplicatesRequest(example=Example(vector=bytes(4))), "example.vector"),
            (FindDuplicatesRequest(example=P7, min_score=float("nan")), "min_score"),
            (FindDuplicatesRequest(example=P7, limit=1001), "limit"),
            (FindDuplicatesRequest(example=VECTOR, exclude_same_shop=True), "exclude_same_shop"),
            (FindDuplicatesRequest(example=P7, space=99), "space"),  # type: ignore[arg-type]  # no space
        ):
            error = await error_of(system.search.FindDuplicates(request))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (error.details() or "").startswith(field + ":")


async def test_duplicates_fail_with_the_same_codes_as_a_search() -> None:
    async with scripted_system() as system:
        for request, code in (
            (FindDuplicatesRequest(example=Example(product_id="nobody")), grpc.StatusCode.NOT_FOUND),
            (FindDuplicatesRequest(example=Example(product_id="p19")), grpc.StatusCode.NOT_FOUND),  # It has no photo.
            (FindDuplicatesRequest(example=P7, space=SPACE_PRODUCT), grpc.StatusCode.FAILED_PRECONDITION),
        ):
            assert (await error_of(system.search.FindDuplicates(request))).code() is code
        system.shards[1].error = Unavailable("broken")
        partial = await system.search.FindDuplicates(FindDuplicatesRequest(example=VECTOR))
        whole = FindDuplicatesRequest(example=VECTOR, min_coverage=1)
        assert (await error_of(system.search.FindDuplicates(whole))).code() is grpc.StatusCode.UNAVAILABLE
    assert 0 < partial.provenance.coverage < 1
    assert partial.provenance.degraded
