"""Filters over rows, and exact search with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.backends.filter_bitmap import FilterBitmap
from index.search.filters import FilterCache, filter_mask
from index.search.queries import parse_query
from index.search.segment import WHOLE_TABLE, Segment
from index.search.space import SpaceIndex
from index.storage import attributes
from index.storage.attributes import Attributes
from lookalike.releases.manifest import IndexEntry
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.v1.types_pb2 import Filter
from lookalike.vectors import normalised
from tests.unit.index.samples import IMAGE, catalogue, query_vector, unit_vectors


def write_table(path: Path, products: pa.Table) -> Attributes:
    attributes.write_products(path / "table.arrow", attributes.validate_products(products))
    return attributes.open_attributes(path / "table.arrow")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Attributes:
    tags = [[tag for n, tag in ((2, "even"), (3, "third"), (7, "店")) if row % n == 0] for row in range(10)]
    products = catalogue(10).append_column("tags", pa.array(tags))
    products = products.append_column("created_at", pa.array([row * 86_400 for row in range(10)]))
    return write_table(tmp_path_factory.mktemp("table"), products)


@dataclass(frozen=True)
class CountingBitmap(FilterBitmap):
    """Counts how often its rows are computed."""

    computations: list[int] = field(default_factory=list)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        self.computations.append(1)
        return super().rows


def rows(table: Attributes, condition: Filter) -> list[int]:
    return np.flatnonzero(filter_mask(table, condition)).tolist()


@pytest.mark.parametrize(
    ("condition", "expected_rows"),
    [
        (Filter(), list(range(10))),
        (Filter(category_in=["fashion"]), [0, 1, 5, 6]),  # Not row 2: "fashionable" is no part of fashion.
        (Filter(category_in=["fashion/shoes"]), [0, 5]),
        (Filter(category_in=["fash"]), []),
        (Filter(category_in=["home"], category_not_in=["home/kitchen"]), []),
        (Filter(category_not_in=["fashion"]), [2, 3, 4, 7, 8, 9]),
        (Filter(shop_in=["shop 1", "shop 9"]), [1, 4, 7]),
        (Filter(shop_not_in=["shop 1"]), [0, 2, 3, 5, 6, 8, 9]),
        (Filter(min_price=3, max_price=5), [3, 4, 5]),
        (Filter(min_price=5, max_price=3), []),
        (Filter(max_price=0), [0]),
        (Filter(in_stock=True), [1, 2, 3, 5, 6, 7, 9]),
        (Filter(in_stock=False), [0, 4, 8]),
        (Filter(category_in=["fashion"], shop_in=["shop 0"], in_stock=True), [6]),
        (Filter(created_after=6 * 86_400), [7, 8, 9]),  # Exclusive.
        (Filter(created_after=0), list(range(1, 10))),  # Not row 0, of which no time is known.
        (Filter(tags_any=["even", "店", "none"]), [0, 2, 4, 6, 7, 8]),
        (Filter(tags_any=["none"]), []),
        (Filter(tags_all=["even", "third"]), [0, 6]),
        (Filter(tags_all=["even", "even"]), [0, 2, 4, 6, 8]),
        (Filter(tags_all=["even", "none"]), []),
        (Filter(tags_none=["even", "third", "none"]), [1, 5, 7]),
        (Filter(any_of=[Filter(tags_any=["店"]), Filter(max_price=2)]), [0, 1, 2, 7]),
        (Filter(all_of=[Filter(any_of=[Filter(tags_any=["店"]), Filter(max_price=2)])], in_stock=True), [1, 2, 7]),
        (Filter(none_of=[Filter(tags_any=["even"]), Filter(min_price=6)]), [1, 3, 5]),
        (Filter(none_of=[Filter(none_of=[Filter(min_price=6)])]), [6, 7, 8, 9]),
    ],
)
def test_a_product_passes_if_it_meets_every_condition(
    table: Attributes, condition: Filter, expected_rows: list[int]
) -> None:
    assert rows(table, condition) == expected_rows


@pytest.mark.parametrize(
    "condition",
    [
        Filter(category_in=["", "/", "//", "a/", "\x00", "\U0010ffff", "x" * 100_000]),
        Filter(shop_in=[""] * 1000),
        Filter(min_price=float("nan")),
        Filter(min_price=float("inf"), max_price=float("-inf")),
    ],
)
def test_an_extreme_or_contradictory_filter_raises_nothing(table: Attributes, condition: Filter) -> None:
    assert set(rows(table, condition)) <= {4, 9}  # The products without a category are in category "".


def test_the_cache_keeps_the_most_recently_used_filters() -> None:
    cache = FilterCache(2)
    computed = []

    def get(name: bytes) -> None:
        def compute() -> FilterBitmap:
            computed.append(name)
            return FilterBitmap.from_mask(np.ones(3, dtype=np.bool_))

        cache.get(0, name, compute)

    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        get(name)
    assert computed == [b"a", b"b", b"c", b"b"]
    assert len(cache) == 2


PATHS = st.lists(st.sampled_from(["a", "ab", "b", "a/b"]), min_size=0, max_size=3).map("/".join)
PRODUCTS = st.lists(
    st.fixed_dictionaries(
        {
            "category": PATHS,
            "shop": st.sampled_from(["", "s", "t", "店"]),
            "price": st.sampled_from([0.0, 1.0, 2.5, 1e9]),
            "tags": st.lists(st.sampled_from(["red", "赤"]), max_size=2, unique=True),
            "created_at": st.integers(0, 3),
            "in_stock": st.booleans(),
            "vector": st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any),
        }
    ),
    min_size=1,
    max_size=30,
)
CATEGORIES = st.lists(PATHS, max_size=2)
SHOPS = st.lists(st.sampled_from(["", "s", "店", "none"]), max_size=2)
TAGS = st.lists(st.sampled_from(["red", "赤", "none"]), max_size=2)
PRICES = st.none() | st.sampled_from([0.0, 1.0, 3.0])


def filters(inside: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    groups = st.lists(inside, max_size=2)
    return st.builds(
        Filter,
        category_in=CATEGORIES,
        category_not_in=CATEGORIES,
        shop_in=SHOPS,
        shop_not_in=SHOPS,
        min_price=PRICES,
        max_price=PRICES,
        in_stock=st.none() | st.booleans(),
        created_after=st.none() | st.integers(0, 3),
        tags_any=TAGS,
        tags_all=TAGS,
        tags_none=TAGS,
        any_of=groups,
        all_of=groups,
        none_of=groups,
    )


FILTERS = filters(filters(st.builds(Filter, shop_in=SHOPS, tags_any=TAGS)))


def is_in_category(category: str, path: str) -> bool:
    return category == path or category.startswith(path + "/")


def passes(product: dict[str, object], condition: Filter) -> bool:
    category, shop, price = str(product["category"]), product["shop"], float(str(product["price"]))
    tags, created = set(cast("list[str]", product["tags"])), cast("int", product["created_at"])
    return (
        (not condition.category_in or any(is_in_category(category, path) for path in condition.category_in))
        and not any(is_in_category(category, path) for path in condition.category_not_in)
        and (not condition.shop_in or shop in condition.shop_in)
        and shop not in condition.shop_not_in
        and (not condition.HasField("min_price") or price >= condition.min_price)
        and (not condition.HasField("max_price") or price <= condition.max_price)
        and (not condition.HasField("in_stock") or product["in_stock"] == condition.in_stock)
        and (not condition.HasField("created_after") or created > condition.created_after)
        and (not condition.tags_any or not tags.isdisjoint(condition.tags_any))
        and tags.issuperset(condition.tags_all)
        and tags.isdisjoint(condition.tags_none)
        and (not condition.any_of or any(passes(product, each) for each in condition.any_of))
        and all(passes(product, each) for each in condition.all_of)
        and not any(passes(product, each) for each in condition.none_of)
    )


@settings(max_examples=150, deadline=None)
@given(products=PRODUCTS, condition=FILTERS, k=st.integers(0, 40))
def test_filter_and_exact_search_agree_with_a_naive_implementation(
    tmp_path_factory: pytest.TempPathFactory, products: list[dict[str, object]], condition: Filter, k: int
) -> None:
    # Few distinct vectors, so that ties are common.
    vectors = normalised(np.array([product["vector"] for product in products], dtype=np.float32))
    names = ("category", "shop", "price", "in_stock", "tags", "created_at")
    columns = {name: [product[name] for product in products] for name in names}
    table = write_table(
        tmp_path_factory.mktemp("oracle"),
        pa.table({"id": [f"{row:03d}" for row in range(len(products))], **columns}),
    )
    space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=None)
    query = unit_vectors(1, 3)
    (neighbours,) = space.search(query, k, FilterBitmap.from_mask(filter_mask(table, condition)))
    expected_rows = [row for row, product in enumerate(products) if passes(product, condition)]
    cosines = vectors.astype(np.float64) @ query[0].astype(np.float64)
    expected = sorted(expected_rows, key=lambda row: (-round(float(cosines[row]), 5), row))[:k]
    assert neighbours.rows.tolist() == expected


def test_a_cached_filter_takes_one_bit_for_each_row(table: Attributes) -> None:
    space = SpaceIndex(entry=IndexEntry(), vectors=unit_vectors(10, 4), rows=np.arange(10), ann_index=None)
    cache = FilterCache(4)
    segment = Segment(table, {IMAGE: space}, filters=cache)
    condition = Filter(tags_any=["even"]).SerializeToString()
    query = parse_query(ShardQuery(vectors=[query_vector(IMAGE, unit_vectors(1, 4)[0])], k=3, exact=True), {IMAGE: 4})
    (hits,) = segment.nearest([query._replace(filter=condition)])
    assert hits is not None
    assert len(hits.rows) == 3
    assert segment.page(condition, "p1", 10) == [2, 4, 6, 8]
    for number in (IMAGE, WHOLE_TABLE):
        cached = cache.get(number, condition, lambda: FilterBitmap.from_mask(np.zeros(0, dtype=np.bool_)))
        assert cached.count == 5
        assert sum(each.nbytes for each in vars(cached).values() if isinstance(each, np.ndarray)) == 2


def test_the_rows_that_pass_are_computed_once_for_all_queries_of_a_search() -> None:
    space = SpaceIndex(entry=IndexEntry(), vectors=unit_vectors(10, 4), rows=np.arange(10), ann_index=None)
    bitmap = CountingBitmap(np.array([0b11110000, 0b01], dtype=np.uint8), 10, 5)
    neighbours = space.search(unit_vectors(7, 4, seed=1), 10, bitmap)
    assert [sorted(each.rows.tolist()) for each in neighbours] == [[4, 5, 6, 7, 8]] * 7
    assert len(bitmap.computations) == 1


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 1])
@pytest.mark.parametrize("start", [0, 1, 8, 9_001, 19_999, 20_000])
def test_the_rows_that_pass_can_be_listed_from_any_row_on(share: float, start: int) -> None:
    bitmap = FilterBitmap.from_mask(np.random.default_rng(5).random(20_000) < share)
    assert [*bitmap.rows_from(start)] == bitmap.rows[bitmap.rows >= start].tolist()
