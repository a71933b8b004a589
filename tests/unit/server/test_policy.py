"""Which space a query is searched in."""

from __future__ import annotations

import pytest

from lookalike.errors import BadSettings, InvalidRequest, NotFound
from protos.lookalike.v1.search_pb2 import Example, SearchRequest
from protos.lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_TEXT, Space
from server.policy import AutoPolicy, products_space, requested_space
from server.requests import parse_query

POLICY = AutoPolicy.parse(("fashion=image", "fashion/fabric=text", "*=text"))
VECTOR = Example(vector=bytes([0, 0, 128, 63]))


def space_of(*examples: Example, space: Space.ValueType = SPACE_AUTO) -> Space.ValueType:
    return requested_space(parse_query(SearchRequest(examples=examples, space=space)))


@pytest.mark.parametrize(
    ("category", "space"),
    [
        ("fashion", SPACE_IMAGE),
        ("fashion/shoes/boots", SPACE_IMAGE),
        ("fashion/fabric/silk", SPACE_TEXT),
        ("fashionable", SPACE_TEXT),
        ("food", SPACE_TEXT),
        ("", SPACE_TEXT),
    ],
)
def test_the_longest_category_that_fits_decides(category: str, space: Space.ValueType) -> None:
    assert POLICY.space_of(category) == space


@pytest.mark.parametrize(
    "entries", [(), ("fashion=image",), ("*=sound",), ("*",), ("=text", "*=text"), ("*=text", "*=image")]
)
def test_a_policy_that_does_not_say_it_all_or_says_it_twice_is_refused(entries: tuple[str, ...]) -> None:
    with pytest.raises(BadSettings):
        AutoPolicy.parse(entries)


def test_the_examples_settle_the_space_where_they_can() -> None:
    assert space_of(Example(image=b"x")) == SPACE_IMAGE
    assert space_of(Example(text="x"), Example(product_id="p")) == SPACE_TEXT
    assert space_of(Example(product_id="p")) == SPACE_AUTO
    assert space_of(Example(product_id="p"), space=SPACE_IMAGE) == SPACE_IMAGE
    assert space_of(VECTOR, space=SPACE_TEXT) == SPACE_TEXT


@pytest.mark.parametrize(
    ("examples", "space", "field"),
    [
        ([Example(image=b"x")], SPACE_TEXT, "examples[0].image"),
        ([Example(text="x")], SPACE_IMAGE, "examples[0].text"),
        ([Example(image=b"x"), Example(text="x")], SPACE_AUTO, "examples[1].text"),
        ([VECTOR], SPACE_AUTO, "space"),
    ],
)
def test_examples_without_a_common_space_are_refused(
    examples: list[Example], space: Space.ValueType, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        space_of(*examples, space=space)
    assert refused.value.field == field


def test_a_product_without_a_vector_in_the_preferred_space_is_searched_in_one_it_has() -> None:
    assert products_space(POLICY, "fashion", "p", {SPACE_IMAGE, SPACE_TEXT}) == SPACE_IMAGE
    assert products_space(POLICY, "fashion", "p", {SPACE_TEXT}) == SPACE_TEXT
    with pytest.raises(NotFound):
        products_space(POLICY, "fashion", "p", set())
