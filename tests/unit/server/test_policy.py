"""The route of a query: the spaces it is searched in."""

from __future__ import annotations

import re

import pytest

from lookalike.errors import BadSettings, InvalidRequest, NotFound
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space, SpaceWeight
from server.policy import HALF_AND_HALF, SINGLE_SPACE, AutoPolicy, Route, drop_empty_spaces, resolve_route
from server.query import ExampleSource, parse_query
from server.settings import GatewaySettings

ENTRIES = ("fashion=product>image", "fashion/fabric=text", "*=product>text")
POLICY = AutoPolicy.parse(ENTRIES, photo="product>image", text="text>product")
BUILT = (SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)
VECTOR = Example(vector=bytes([0, 0, 128, 63]))
PHOTO, WORDS, P = Example(image=b"x"), Example(text="x"), Example(product_id="p")
WEIGHTS = (SpaceWeight(space=SPACE_TEXT, weight=1), SpaceWeight(space=SPACE_IMAGE, weight=3))


def route_of(
    *examples: Example,
    space: Space.ValueType = SPACE_AUTO,
    built: tuple[Space.ValueType, ...] = BUILT,
    policy: AutoPolicy = POLICY,
) -> Route | None:
    return resolve_route(parse_query(SearchRequest(examples=examples, space=space)), built, policy)


@pytest.mark.parametrize(
    ("category", "entry"),
    [
        ("fashion", "fashion=product>image"),
        ("fashion/shoes/boots", "fashion=product>image"),
        ("fashion/fabric/silk", "fashion/fabric=text"),
        ("fashionable", "*=product>text"),
        ("food", "*=product>text"),
        ("", "*=product>text"),
    ],
)
def test_the_entry_with_the_longest_matching_category_decides(category: str, entry: str) -> None:
    assert POLICY.entry_of(category).text == entry


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((), "no entry for *"),
        (("fashion=image",), "no entry for *"),
        (("*=sound",), "'sound' is not one of image, text, product"),
        (("*=auto",), "'auto' is not one of"),
        (("*",), "'' is not one of"),
        (("*=",), "'' is not one of"),
        (("*=image>",), "'' is not one of"),
        (("=text", "*=text"), "expected CATEGORY=SPACE"),
        (("*=text", "*=image"), "has an entry already"),
        (("fashion=image", "fashion=image>text", "*=text"), "fashion has an entry already"),
        (("*=image>text>image",), "image is listed twice"),
    ],
)
def test_a_policy_with_missing_malformed_or_duplicate_entries_is_refused(entries: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadSettings, match=re.escape(reason)):
        AutoPolicy.parse(entries, photo="image", text="text")


@pytest.mark.parametrize(
    ("photo", "text", "reason"),
    [
        ("text", "text", "'auto_photo=text': 'text' is not one of image, product"),
        ("image", "product>image", "'auto_text=product>image': 'image' is not one of text, product"),
        ("", "text", "'auto_photo=': '' is not one of image, product"),
        ("image", "text>product>text", "'auto_text=text>product>text': text is listed twice"),
    ],
)
def test_a_policy_that_sends_photos_or_texts_where_they_cannot_be_compared_or_twice_is_refused(
    photo: str, text: str, reason: str
) -> None:
    with pytest.raises(BadSettings, match=re.escape(reason)):
        AutoPolicy.parse(ENTRIES, photo=photo, text=text)


def test_the_default_policy_prefers_the_product_space_then_photos_for_fashion_and_texts_for_other_categories() -> None:
    settings = GatewaySettings()
    policy = AutoPolicy.parse(settings.auto_policy, photo=settings.auto_photo, text=settings.auto_text)
    assert policy.entry_of("fashion/shoes").spaces == (SPACE_PRODUCT, SPACE_IMAGE)
    assert policy.entry_of("food").spaces == (SPACE_PRODUCT, SPACE_TEXT)
    assert policy.by_source[ExampleSource.IMAGE].spaces == (SPACE_PRODUCT, SPACE_IMAGE)
    assert policy.by_source[ExampleSource.TEXT].spaces == (SPACE_PRODUCT, SPACE_TEXT)


def test_photos_alone_and_texts_alone_are_searched_in_the_first_preferred_space_that_is_built() -> None:
    assert route_of(PHOTO, PHOTO) == Route((SPACE_PRODUCT,), (1.0,), "auto_photo=product>image")
    assert route_of(PHOTO, built=(SPACE_IMAGE, SPACE_TEXT)) == Route((SPACE_IMAGE,), (1.0,), "auto_photo=product>image")
    assert route_of(WORDS) == Route((SPACE_TEXT,), (1.0,), "auto_text=text>product")
    assert route_of(WORDS, built=(SPACE_IMAGE, SPACE_PRODUCT)) == Route(
        (SPACE_PRODUCT,), (1.0,), "auto_text=text>product"
    )


def test_photos_and_texts_whose_preferred_spaces_are_not_built_use_their_own_space_and_no_policy_entry() -> None:
    policy = AutoPolicy.parse(ENTRIES, photo="product", text="product")
    assert route_of(PHOTO, built=(SPACE_IMAGE, SPACE_TEXT), policy=policy) == SINGLE_SPACE[SPACE_IMAGE]
    assert route_of(WORDS, built=(SPACE_IMAGE, SPACE_TEXT), policy=policy) == SINGLE_SPACE[SPACE_TEXT]


def test_policies_that_differ_for_photos_or_texts_have_different_texts() -> None:
    texts = {AutoPolicy.parse(ENTRIES, photo=p, text=t).text for p in ("image", "product") for t in ("text", "product")}
    assert len(texts) == 4


def test_a_product_is_searched_in_the_first_preferred_space_that_it_has_a_vector_in() -> None:
    assert POLICY.route_product("fashion", "p", BUILT) == Route((SPACE_PRODUCT,), (1.0,), "fashion=product>image")
    assert POLICY.route_product("fashion", "p", {SPACE_IMAGE, SPACE_TEXT}).spaces == (SPACE_IMAGE,)
    assert POLICY.route_product("food", "p", {SPACE_IMAGE, SPACE_TEXT}).spaces == (SPACE_TEXT,)


def test_a_product_without_a_vector_in_its_preferred_spaces_is_searched_in_another_and_the_route_says_so() -> None:
    missing = ("product p has no product or image vector: searched in the text space instead",)
    assert POLICY.route_product("fashion", "p", {SPACE_TEXT}) == Route((SPACE_TEXT,), (1.0,), "", missing)
    assert POLICY.route_product("fashion/fabric", "p", {SPACE_PRODUCT, SPACE_IMAGE}).spaces == (SPACE_IMAGE,)
    with pytest.raises(NotFound):
        POLICY.route_product("fashion", "p", set())


def test_the_examples_decide_the_space_where_they_can() -> None:
    assert route_of(PHOTO, space=SPACE_IMAGE) == SINGLE_SPACE[SPACE_IMAGE]
    assert route_of(PHOTO, VECTOR) == SINGLE_SPACE[SPACE_IMAGE]
    assert route_of(WORDS, P) == SINGLE_SPACE[SPACE_TEXT]
    assert route_of(PHOTO, P) == SINGLE_SPACE[SPACE_IMAGE]
    assert route_of(P) is None
    assert route_of(P, space=SPACE_IMAGE) == SINGLE_SPACE[SPACE_IMAGE]
    assert route_of(VECTOR, space=SPACE_TEXT) == SINGLE_SPACE[SPACE_TEXT]
    assert route_of(PHOTO, WORDS, P, VECTOR, space=SPACE_PRODUCT) == SINGLE_SPACE[SPACE_PRODUCT]


def test_photos_with_texts_use_the_product_space_or_half_image_and_half_text_where_it_is_not_built() -> None:
    for examples in ((PHOTO, WORDS), (P, WORDS, PHOTO)):
        assert route_of(*examples) == SINGLE_SPACE[SPACE_PRODUCT]
        assert route_of(*examples, built=(SPACE_IMAGE, SPACE_TEXT)) == HALF_AND_HALF


@pytest.mark.parametrize(
    ("examples", "space", "field"),
    [
        ([PHOTO], SPACE_TEXT, "examples[0].image"),
        ([WORDS], SPACE_IMAGE, "examples[0].text"),
        ([PHOTO, WORDS], SPACE_IMAGE, "examples[1].text"),
        ([VECTOR], SPACE_AUTO, "space"),
        ([PHOTO, WORDS, VECTOR], SPACE_AUTO, "space"),
    ],
)
def test_examples_without_a_common_space_are_refused(
    examples: list[Example], space: Space.ValueType, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        route_of(*examples, space=space)
    assert refused.value.field == field


def route_of_late_fusion(product_spaces: dict[str, tuple[Space.ValueType, ...]], *more: Example) -> Route:
    examples = [*(Example(product_id=product_id) for product_id in product_spaces), *more]
    query = parse_query(SearchRequest(examples=examples, weights=WEIGHTS))
    route = resolve_route(query, BUILT, POLICY)
    assert route is not None
    return drop_empty_spaces(route, query, product_spaces)


def test_the_shares_of_a_late_fusion_add_up_to_one_whatever_the_weights_do() -> None:
    assert route_of_late_fusion({"p": BUILT}) == Route((SPACE_IMAGE, SPACE_TEXT), (0.75, 0.25))


def test_a_space_in_which_no_example_has_a_vector_is_dropped_and_the_route_says_so() -> None:
    route = route_of_late_fusion({"p": (SPACE_TEXT,), "q": (SPACE_TEXT,)})
    assert route == Route(
        (SPACE_TEXT,), (1.0,), "", ("products p, q have no image vector: that space was not searched",)
    )


def test_a_product_without_a_vector_in_one_space_counts_in_the_others() -> None:
    missing = ("product p has no image vector: only the other examples count there",)
    assert route_of_late_fusion({"p": (SPACE_TEXT,), "q": BUILT}) == Route(
        (SPACE_IMAGE, SPACE_TEXT), (0.75, 0.25), "", missing
    )
    assert route_of_late_fusion({"p": (SPACE_TEXT,)}, PHOTO).spaces == (SPACE_IMAGE, SPACE_TEXT)


def test_a_product_without_a_vector_in_any_of_the_spaces_is_not_found() -> None:
    with pytest.raises(NotFound, match="product p has no image or text vector"):
        route_of_late_fusion({"p": (SPACE_PRODUCT,), "q": BUILT})
