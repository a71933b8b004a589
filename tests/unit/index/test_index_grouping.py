"""Hits limited by shop, score and excluded ids: the same as of a naive scan, at whatever depth the search ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.building.build import SpaceVectors, build
from index.search.grouping import select_hits, widen_until_filled
from index.serving.shard_version import ShardVersion, open_shard
from lookalike import shard_query
from lookalike.runtime.grouping import limit_per_shop
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.v1.types_pb2 import Filter
from lookalike.vectors import F32
from tests.unit.index.samples import IMAGE, TEXT, clustered, query_vector, unit_vectors, vectors_of


class Ranking(NamedTuple):
    scores: F32


def a_query(
    k: int, *, max_per_shop: int = 0, min_score: float = -np.inf, exclude_ids: Sequence[str] = ()
) -> shard_query.ShardQuery:
    return shard_query.ShardQuery({}, (), b"", k, False, False, frozenset(exclude_ids), min_score, max_per_shop)


class Catalogue:
    """A searchable that ranks products the same for every query, and records the depths of its searches."""

    def __init__(self, scores: Sequence[float], shops: Sequence[str]) -> None:
        self.scores = np.array(sorted(scores, reverse=True), dtype=np.float32)
        self.shops = shops
        self.depths: list[list[int]] = []
        self.full_scans = 0

    def nearest(self, queries: Sequence[shard_query.ShardQuery]) -> list[Ranking]:
        self.depths.append([query.k for query in queries])
        return [Ranking(self.scores[: query.k]) for query in queries]

    def max_hits(self, query: shard_query.ShardQuery) -> int:
        return len(self.expected(query._replace(min_score=-np.inf)))

    def best_per_shop(self, query: shard_query.ShardQuery) -> Ranking:
        self.full_scans += 1
        return Ranking(self.scores)

    def select(self, query: shard_query.ShardQuery, ranking: Ranking) -> Sequence[int]:
        return select_hits(query, ranking.scores, str, lambda position: self.shops[position])

    def hits(self, *queries: shard_query.ShardQuery) -> list[list[int]]:
        return [[*found[1]] for found in widen_until_filled(queries, self, self.select) if found is not None]

    def expected(self, query: shard_query.ShardQuery) -> list[int]:
        kept: list[int] = []
        for position, (score, shop) in enumerate(zip(self.scores, self.shops, strict=True)):
            full = query.max_per_shop and shop and [self.shops[i] for i in kept].count(shop) == query.max_per_shop
            if score >= query.min_score and str(position) not in query.exclude_ids and not full:
                kept.append(position)
        return kept[: query.k]


SHOPS = st.sampled_from(["", "a", "b", "c", "d"])
QUERIES = st.builds(
    a_query,
    st.integers(0, 12),
    max_per_shop=st.integers(0, 3),
    min_score=st.sampled_from([-np.inf, -1.0, 0.25, 0.5, 2.0]),
    exclude_ids=st.lists(st.integers(0, 20).map(str), max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(
    products=st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), SHOPS), max_size=40),
    queries=st.lists(QUERIES, max_size=3),
)
def test_hits_are_the_first_of_the_whole_ranking_that_the_query_allows(
    products: list[tuple[float, str]], queries: list[shard_query.ShardQuery]
) -> None:
    catalogue = Catalogue([score for score, _ in products], [shop for _, shop in products])
    assert catalogue.hits(*queries) == [catalogue.expected(query) for query in queries]


def test_a_search_goes_no_deeper_than_necessary() -> None:
    one_shop = Catalogue(np.linspace(1, 0, 1000).tolist(), ["a"] * 900 + ["b"] * 100)
    assert one_shop.hits(a_query(5), a_query(2, max_per_shop=1)) == [[0, 1, 2, 3, 4], [0, 900]]
    assert one_shop.depths == [[5, 4], [16], [64], [256], [1024]]
    scored = Catalogue(np.linspace(1, 0, 1000).tolist(), ["a"] * 1000)
    assert scored.hits(a_query(2, max_per_shop=1, min_score=0.99)) == [[0]]
    assert scored.depths == [[4], [16]]  # The sixteenth scores less than that: so do all below.


def test_a_ranking_of_all_products_ends_the_search() -> None:
    two = Catalogue([1.0, 0.5], ["a", "a"])
    assert two.hits(a_query(10, max_per_shop=1)) == [[0]]
    assert two.depths == [[20]]


def test_hits_that_cannot_exist_are_not_searched_for() -> None:
    one_shop = Catalogue(np.linspace(1, 0, 100_000).tolist(), ["a"] * 100_000)
    assert one_shop.hits(a_query(10, max_per_shop=3)) == [[0, 1, 2]]
    assert one_shop.depths == [[20], [80], [320]]
    assert one_shop.hits(a_query(10, max_per_shop=1)._replace(exact=True)) == [[0]]
    assert one_shop.depths[3:] == [[20]]
    assert not one_shop.full_scans


def test_the_deepest_hits_are_found_by_one_full_scan() -> None:
    hidden = Catalogue(np.linspace(1, 0, 100_000).tolist(), ["a"] * 99_999 + ["b"])
    assert hidden.hits(a_query(10, max_per_shop=1)) == [[0, 99_999]]
    assert hidden.depths == [[20], [80], [320], [1280], [5120]]
    assert hidden.hits(a_query(10, max_per_shop=1)._replace(exact=True)) == [[0, 99_999]]
    assert hidden.depths[5:] == [[20]]
    assert hidden.full_scans == 2


COUNT = 4000  # All of them fit into one response.
VECTORS = clustered(COUNT, 32)
SHOPS_OF = ["" if row % 11 == 0 else f"shop {row % 7 if row % 3 else 0}" for row in range(COUNT)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    where = tmp_path_factory.mktemp("grouped")
    products = pa.table({"id": [f"p{row:05}" for row in range(COUNT)], "shop": SHOPS_OF})
    spaces: dict[int, SpaceVectors] = {
        IMAGE: vectors_of(VECTORS),
        TEXT: vectors_of(unit_vectors(COUNT // 2, 8), np.arange(COUNT // 2) * 2),
    }
    build(where, products, spaces, shards=1, exact_floats=50_000)
    loaded = open_shard(where, 0)
    assert loaded.base.spaces[IMAGE].entry.operating_points
    return loaded


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("k", "max_per_shop"), [(10, 1), (10, 3), (40, 5), (1000, 2)])
def test_hits_are_the_best_of_each_shop_and_at_most_the_limit_of_each(
    shard: ShardVersion, exact: bool, fused: bool, k: int, max_per_shop: int
) -> None:
    vectors = [
        query_vector(IMAGE, VECTORS[5], 0.7),
        *([query_vector(TEXT, unit_vectors(1, 8, 3)[0], 0.3)] if fused else []),
    ]
    query = ShardQuery(vectors=vectors, k=k, max_per_shop=max_per_shop, exact=exact, exclude_ids=["p00005", "nobody"])
    all_products = ShardQuery(vectors=vectors, k=COUNT, exact=True)
    full_ranking, grouped = shard.search([all_products, query]).results
    shops = [SHOPS_OF[int(product_id[1:])] for product_id in grouped.ids]
    assert list(grouped.shops) == shops
    assert max(shops.count(shop) for shop in set(shops) if shop) <= max_per_shop
    others = [product_id for product_id in full_ranking.ids if product_id != "p00005"]
    positions = limit_per_shop([SHOPS_OF[int(product_id[1:])] for product_id in others], max_per_shop, k)
    expected = [others[position] for position in positions]
    assert len(grouped.ids) == len(expected)
    if exact:
        assert list(grouped.ids) == expected
    assert len({*grouped.ids} & {*expected}) >= 0.95 * len(expected)


def test_hits_are_exactly_those_at_or_above_the_minimum_score(shard: ShardVersion) -> None:
    all_products = ShardQuery(vectors=[query_vector(IMAGE, VECTORS[5])], k=50, exact=True)
    (full_ranking,) = shard.search([all_products]).results
    scores = np.frombuffer(full_ranking.scores, np.float32)
    query = ShardQuery(vectors=[query_vector(IMAGE, VECTORS[5])], k=50, exact=True, min_score=scores[19])
    (limited,) = shard.search([query]).results
    assert list(limited.ids) == list(full_ranking.ids)[: int((scores >= scores[19]).sum())]
    nothing = ShardQuery(
        vectors=[query_vector(IMAGE, VECTORS[5])], k=50, min_score=1.5, filter=Filter(shop_in=["shop 1"])
    )
    assert not shard.search([nothing]).results[0].ids


def test_an_explained_response_reports_the_plan_of_the_last_search(shard: ShardVersion) -> None:
    vector = query_vector(IMAGE, VECTORS[5])
    queries = [
        ShardQuery(vectors=[vector], k=10, explain=True),
        ShardQuery(vectors=[vector], k=10, explain=True, max_per_shop=1),
        ShardQuery(vectors=[vector], k=10, explain=True, filter=Filter(shop_in=["shop 1"])),
        ShardQuery(vectors=[vector], k=10, explain=True, exact=True),
    ]
    plain, grouped, filtered, exact = [hits.plans[0] for hits in shard.search(queries).results]
    entry = shard.base.spaces[IMAGE].entry
    assert (plain.recipe, plain.depth, plain.search_parameter) == (
        entry.recipe,
        10,
        entry.operating_points[0].search_parameter,
    )
    assert plain.candidates == 10 * entry.operating_points[0].refine_factor
    assert grouped.depth >= 20
    assert (filtered.matching, filtered.recipe) == (SHOPS_OF.count("shop 1"), "")
    assert (exact.matching, exact.recipe, exact.candidates) == (COUNT, "", 0)
