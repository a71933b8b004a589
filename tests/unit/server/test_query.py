"""Parsing a SearchRequest, field by field."""

from __future__ import annotations

import pytest

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import Filter, SpaceWeight
from server.query import DEFAULT_LIMIT, MAX_EXAMPLES, parse_query


def a_request(**fields: object) -> SearchRequest:
    return SearchRequest(**{"examples": [Example(product_id="p1")], **fields})  # type: ignore[arg-type]


def weight(space: int, value: float = 1) -> SpaceWeight:
    return SpaceWeight(space=space, weight=value)  # type: ignore[arg-type]  # numbers that are no space, too


MALFORMED: dict[str, tuple[SearchRequest, str]] = {
    "no example": (SearchRequest(), "examples"),
    "an empty example": (SearchRequest(examples=[Example()]), "examples[0]"),
    "two sources": (
        SearchRequest(examples=[Example(product_id="p"), Example(text="t", product_id="p")]),
        "examples[1]",
    ),
    "too many examples": (SearchRequest(examples=[Example(text="t")] * (MAX_EXAMPLES + 1)), "examples"),
    "an unknown space": (a_request(space=99), "space"),
    "limit 0": (a_request(limit=0), "limit"),
    "limit 1001": (a_request(limit=1001), "limit"),
    "weight 0": (SearchRequest(examples=[Example(text="t", weight=0)]), "examples[0].weight"),
    "weight NaN": (SearchRequest(examples=[Example(text="t", weight=float("nan"))]), "examples[0].weight"),
    "an empty id": (SearchRequest(examples=[Example(product_id="")]), "examples[0].product_id"),
    "an id of 257 bytes": (SearchRequest(examples=[Example(product_id="é" * 129)]), "examples[0].product_id"),
    "an empty text": (SearchRequest(examples=[Example(text="")]), "examples[0].text"),
    "a blank text": (SearchRequest(examples=[Example(text=" \n\u3000")]), "examples[0].text"),
    "a text over 64 KiB": (SearchRequest(examples=[Example(text="x" * (MAX_TEXT_BYTES + 1))]), "examples[0].text"),
    "an empty photo": (SearchRequest(examples=[Example(image=b"")]), "examples[0].image"),
    "a photo over 8 MB": (SearchRequest(examples=[Example(image=bytes(MAX_IMAGE_BYTES + 1))]), "examples[0].image"),
    "a vector of 3 bytes": (SearchRequest(examples=[Example(vector=b"abc")]), "examples[0].vector"),
    "an empty vector": (SearchRequest(examples=[Example(vector=b"")]), "examples[0].vector"),
    "coverage over 1": (a_request(min_coverage=1.5), "min_coverage"),
    "coverage NaN": (a_request(min_coverage=float("nan")), "min_coverage"),
    "max_per_shop 0": (a_request(max_per_shop=0), "max_per_shop"),
    "max_per_shop 1001": (a_request(max_per_shop=1001), "max_per_shop"),
    "a score over 1": (a_request(min_score=1.01), "min_score"),
    "a score below -1": (a_request(min_score=-1.01), "min_score"),
    "a score NaN": (a_request(min_score=float("nan")), "min_score"),
    "diversity over 1": (a_request(diversity=1.01), "diversity"),
    "diversity below 0": (a_request(diversity=-0.01), "diversity"),
    "diversity NaN": (a_request(diversity=float("nan")), "diversity"),
    "101 hits with diversity": (a_request(diversity=0.1, limit=101), "limit"),
    "exclude_same_shop with a text": (
        SearchRequest(examples=[Example(text="t")], exclude_same_shop=True),
        "exclude_same_shop",
    ),
    "weights and a space": (a_request(weights=[weight(1)], space=1), "space"),
    "a weight of AUTO": (a_request(weights=[weight(1), weight(0)]), "weights[1].space"),
    "a weight of an unknown space": (a_request(weights=[weight(99)]), "weights[0].space"),
    "two weights of a space": (a_request(weights=[weight(1), weight(2), weight(1)]), "weights[2].space"),
    "a space of weight 0": (a_request(weights=[weight(1, 0)]), "weights[0].weight"),
    "a space of weight below 0": (a_request(weights=[weight(1, -1)]), "weights[0].weight"),
    "a space of weight NaN": (a_request(weights=[weight(1, float("nan"))]), "weights[0].weight"),
    "a space of infinite weight": (a_request(weights=[weight(1, float("inf"))]), "weights[0].weight"),
    "a space of negligible weight": (a_request(weights=[weight(1, 1e-30), weight(2, 1e30)]), "weights"),
    "a weighted space in which no example counts": (
        SearchRequest(examples=[Example(text="t")], weights=[weight(1), weight(2)]),
        "weights[0].space",
    ),
    "an example that counts in none of the spaces": (
        a_request(examples=[Example(product_id="p"), Example(image=b"i")], weights=[weight(2)]),
        "examples[1].image",
    ),
    "a vector with weights": (
        a_request(examples=[Example(product_id="p"), Example(vector=bytes(4))], weights=[weight(2)]),
        "examples[1].vector",
    ),
    "a malformed filter": (a_request(filter=Filter(category_in=[""])), "filter.category_in"),
}


@pytest.mark.parametrize(("request_", "field"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_is_refused_with_its_field(request_: SearchRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_query(request_)
    assert refused.value.field == field


def test_a_request_at_its_bounds_is_accepted() -> None:
    parse_query(SearchRequest(examples=[Example(text="x" * MAX_TEXT_BYTES)] * MAX_EXAMPLES, limit=1000))
    parse_query(SearchRequest(examples=[Example(image=bytes(MAX_IMAGE_BYTES))], limit=1, min_coverage=1))
    parse_query(a_request(limit=1, max_per_shop=1, min_score=-1))
    parse_query(a_request(limit=100, diversity=1))
    parse_query(a_request(limit=1000, max_per_shop=1000, min_score=1))
    parse_query(SearchRequest(examples=[Example(product_id="é" * 128)]))


def test_fields_that_are_left_out_have_defaults() -> None:
    query = parse_query(a_request())
    assert (query.limit, query.examples[0].weight, query.min_coverage, query.exact) == (DEFAULT_LIMIT, 1.0, 0.0, False)


def test_weights_become_shares_that_add_up_to_one_in_the_order_of_the_spaces() -> None:
    query = parse_query(a_request(weights=[weight(3, 1), weight(1, 2), weight(2, 1)]))
    assert query.shares == ((1, 2, 3), (0.5, 0.25, 0.25))
    assert parse_query(a_request()).shares is None


def test_examples_of_one_request_may_be_compared_in_different_spaces() -> None:
    examples = [Example(image=b"i"), Example(text="t", weight=-1)]
    parse_query(SearchRequest(examples=examples, weights=[weight(1), weight(2)]))
    parse_query(SearchRequest(examples=examples, weights=[weight(3)]))
