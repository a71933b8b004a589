"""Requests of which all but the vector was seen before are parsed as any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookalike.errors import InvalidRequest
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Filter
from lookalike.vectors import pack
from server.query import SearchQuery, parse_query
from server.query_parser import QueryParser

REQUESTS: list[dict[str, Any]] = [
    {},
    {"limit": 7},
    {"filter": Filter(shop_in=["b", "a"], in_stock=True)},
    {"explain": True, "min_score": 0.5, "max_per_shop": 2},
    {"exact": True, "min_coverage": 1},
]


def a_vector(seed: int, dim: int = 8) -> bytes:
    return pack(np.random.default_rng(seed).standard_normal(dim).astype(np.float32))


def a_request(*vectors: bytes, **fields: Any) -> bytes:
    examples = [Example(vector=vector) for vector in vectors]
    return SearchRequest(examples=examples, space=SPACE_IMAGE, **fields).SerializeToString()


def outcome(parse: Callable[[bytes], SearchQuery], data: bytes) -> SearchQuery | str:
    """The query, or why there is none."""
    try:
        return parse(data)
    except InvalidRequest as error:
        return str(error)


@pytest.mark.parametrize("dim", [1, 8, 31, 32, 1024, 65536])
def test_a_remembered_request_is_parsed_with_its_own_vector(dim: int) -> None:
    parser = QueryParser()
    for seed in range(3):
        for fields in REQUESTS:
            data = a_request(a_vector(seed, dim), **fields)
            assert parser.parse(data) == parse_query(SearchRequest.FromString(data))


@pytest.mark.parametrize(
    "second",
    [
        Example(vector=a_vector(1), weight=2),
        Example(text="red shoes"),
        Example(product_id="p1"),
        Example(vector=a_vector(1), text="both"),
    ],
)
def test_an_example_that_is_more_than_a_vector_is_never_taken_for_one(second: Example) -> None:
    parser = QueryParser()
    parser.parse(a_request(a_vector(0)))
    data = SearchRequest(examples=[second], space=SPACE_IMAGE).SerializeToString()
    assert outcome(parser.parse, data) == outcome(lambda data: parse_query(SearchRequest.FromString(data)), data)


def test_the_number_of_examples_counts() -> None:
    parser = QueryParser()
    for count in (2, 1, 2, 1):
        assert len(parser.parse(a_request(*(a_vector(i) for i in range(count)))).examples) == count


def test_the_vector_of_a_remembered_request_is_checked() -> None:
    parser = QueryParser()
    parser.parse(a_request(a_vector(0)))
    for wrong in (b"", b"123", a_vector(0, 65537)):
        with pytest.raises(InvalidRequest) as raised:
            parser.parse(a_request(wrong))
        assert raised.value.field == "examples[0].vector"


def test_what_was_refused_is_refused_again() -> None:
    parser = QueryParser()
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="limit"):
            parser.parse(a_request(a_vector(0), limit=0))


@given(data=st.binary(max_size=64))
@example(data=b"\x0a")
@example(data=b"\x0a\x04\x22\x02")
@example(data=b"\x0a\x80")
@example(data=b"\x0a\x06\x22\x04\x00\x00\x00\x00\xff")
@example(data=b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        QueryParser().parse(data)
    except InvalidRequest:
        return
    SearchRequest.FromString(data)
