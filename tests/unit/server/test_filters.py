"""Checking filters, field by field, and the canonical form of filters with the same meaning."""

from __future__ import annotations

import pytest

from lookalike.errors import InvalidRequest
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1.types_pb2 import Filter
from server.filters import MAX_DEPTH, MAX_FILTERS, MAX_VALUES, check_filter


def nested(depth: int) -> Filter:
    """A filter nested `depth` deep."""
    return Filter(any_of=[nested(depth - 1)]) if depth else Filter(in_stock=True)


NEWER = Filter.FromString(b"\xfa\x06\x03red")  # Field 111, as a newer client may know one.
SHOPS = [Filter(shop_in=[f"shop {i}"]) for i in range(MAX_FILTERS)]
MALFORMED: dict[str, tuple[Filter, str]] = {
    "too many shops": (Filter(shop_in=map(str, range(MAX_VALUES + 1))), "filter.shop_in"),
    "too many tags": (Filter(tags_all=map(str, range(MAX_VALUES + 1))), "filter.tags_all"),
    "an empty category": (Filter(category_in=[""]), "filter.category_in"),
    "an empty tag": (Filter(tags_none=["a", ""]), "filter.tags_none"),
    "a price that is NaN": (Filter(min_price=float("nan")), "filter.min_price"),
    "a price that is infinite": (Filter(max_price=float("inf")), "filter.max_price"),
    "an empty price range": (Filter(min_price=2, max_price=1), "filter.max_price"),
    "a time before 1970": (Filter(created_after=-1), "filter.created_after"),
    "a time in milliseconds": (Filter(created_after=1_764_062_700_000), "filter.created_after"),
    "an empty nested filter": (Filter(any_of=[SHOPS[0], Filter()]), "filter.any_of[1]"),
    "an empty price range in a nested filter": (
        Filter(any_of=[SHOPS[0], Filter(none_of=[Filter(min_price=2, max_price=1)])]),
        "filter.any_of[1].none_of[0].max_price",
    ),
    "too deep": (nested(MAX_DEPTH + 1), "filter" + ".any_of[0]" * (MAX_DEPTH + 1)),
    "far too deep": (nested(60), "filter" + ".any_of[0]" * (MAX_DEPTH + 1)),
    "a field of a newer client": (NEWER, "filter"),
    "a nested field of a newer client": (
        Filter(all_of=[Filter(none_of=[SHOPS[0], NEWER])]),
        "filter.all_of[0].none_of[1]",
    ),
    "too many filters": (Filter(any_of=SHOPS, none_of=SHOPS[:1]), "filter"),
}


@pytest.mark.parametrize(("filter_", "field"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_filter_is_refused_with_its_field(filter_: Filter, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_filter(filter_)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "filter_",
    [
        nested(MAX_DEPTH),
        Filter(any_of=SHOPS),
        Filter(shop_in=map(str, range(MAX_VALUES)), tags_none=map(str, range(MAX_VALUES)), created_after=MAX_UNIX_S),
        Filter(min_price=-1, max_price=-1, created_after=0),
    ],
)
def test_a_filter_at_its_bounds_is_accepted(filter_: Filter) -> None:
    assert check_filter(filter_).ByteSize()


def test_filters_with_the_same_meaning_have_equal_bytes_whatever_their_order() -> None:
    def serialized(filter_: Filter) -> bytes:
        return check_filter(filter_).SerializeToString()

    assert serialized(Filter(shop_in=["b", "a", "b"])) == serialized(Filter(shop_in=["a", "b"]))
    one, other = Filter(tags_any=["x", "y"]), Filter(tags_any=["y", "x", "y"])
    assert serialized(Filter(any_of=[one, SHOPS[1], SHOPS[0]])) == serialized(Filter(any_of=[*SHOPS[:2], other, one]))
    assert serialized(Filter()) == b""


def test_filters_with_different_meanings_have_different_bytes() -> None:
    conditions = [
        Filter(tags_any=["x"]),
        Filter(tags_all=["x"]),
        Filter(tags_none=["x"]),
        Filter(created_after=0),
        Filter(created_after=1),
        Filter(),
    ]
    trees = [
        tree
        for each in conditions[:-1]
        for tree in (Filter(any_of=[each]), Filter(all_of=[each]), Filter(none_of=[each]))
    ]
    filters = [*conditions, *trees]
    assert len({check_filter(each).SerializeToString() for each in filters}) == len(filters)
