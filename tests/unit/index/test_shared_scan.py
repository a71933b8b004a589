"""Exact searches that share passes over the vectors: the same results as one by one, whenever they join or leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from index.backends.faiss_support import use_threads
from index.search import grouping
from index.search.cost import UNLIMITED
from index.search.queries import parse_query
from index.search.scores import inner_products, matrix_product, rounding_error
from index.search.shared_scan import ExactSearch, SharedScan
from index.search.view import Hits, LimitedView, View, hit_positions
from index.storage.vectors import StoredVectors
from lookalike import shard_query
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.v1.types_pb2 import Filter
from tests.unit.index.samples import IMAGE, TEXT, query_vector, unit_vectors
from tests.unit.index.test_view import COUNT, DIMS, VECTORS, WHOLE, split_view

ROW_BYTES = 4 * max(DIMS.values())
BLOCKS = (1, 7, 50, 1000)  # Rows of a block: of the whole view's segment 120, 18, 3 and 1.


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


def exact_queries() -> list[shard_query.ShardQuery]:
    """Of every kind; thirty-one products share the photo that some of them are for."""
    image, text = query_vector(IMAGE, VECTORS[IMAGE][7], 2), query_vector(TEXT, VECTORS[TEXT][8], 1)
    messages = [
        ShardQuery(
            vectors=vectors,
            k=k,
            filter=condition,
            max_per_shop=max_per_shop,
            min_score=min_score,
            exclude_ids=["p7", "p40"] if k % 2 else [],
            exact=True,
        )
        for vectors in ([image], [text], [image, text])
        for k in (0, 1, 10, 25, COUNT)
        for condition in (None, Filter(shop_in=["shop 1"], min_price=10), Filter(shop_in=["none"]))
        for max_per_shop in (0, 2)
        for min_score in (None, 0.3)
    ]
    return [parse_query(each, DIMS) for each in messages]


def a_query() -> shard_query.ShardQuery:
    return parse_query(ShardQuery(vectors=[query_vector(IMAGE, VECTORS[IMAGE][7])], k=10, exact=True), DIMS)


def one_by_one(view: View, query: shard_query.ShardQuery) -> tuple[list[str], list[float]]:
    (found,) = grouping.widen_until_filled([query], LimitedView(view, UNLIMITED), hit_positions)
    assert found is not None
    return ids_and_scores(found)


def ids_and_scores(found: tuple[Hits, Sequence[int]]) -> tuple[list[str], list[float]]:
    hits = found[0].select(found[1])
    return hits.ids, hits.scores.tolist()


def run(scan: SharedScan) -> Iterator[ExactSearch]:
    while scan:
        yield from scan.advance().complete


@pytest.mark.parametrize("block_rows", BLOCKS)
@pytest.mark.parametrize("seed", range(3))
def test_together_exact_searches_find_what_each_finds_alone(seed: int, block_rows: int) -> None:
    view = View([each.with_deleted([3, 4, 5]) for each in split_view(seed).segments])
    scan = SharedScan(block_rows * ROW_BYTES)
    searches = [ExactSearch(view, query) for query in exact_queries()]
    for search in searches:
        scan.add(search)
    assert set(run(scan)) == {search for search in searches if search.query.k}
    for search in searches:
        assert ids_and_scores(search.result()) == one_by_one(view, search.query)


@pytest.mark.parametrize("block_rows", BLOCKS)
def test_searches_that_join_a_scan_anywhere_and_see_other_deletions_find_what_each_finds_alone(block_rows: int) -> None:
    scan, joined, complete = SharedScan(block_rows * ROW_BYTES), [], []
    for i, query in enumerate(query for query in exact_queries() if query.k):
        (segment,) = WHOLE.segments
        joined.append(ExactSearch(View([segment.with_deleted([i % COUNT, 30])]), query))
        scan.add(joined[-1])
        for _ in range(i % 4):
            if scan:
                complete += scan.advance().complete
    complete += run(scan)
    assert len(complete) == len(joined)
    for search in joined:
        assert ids_and_scores(search.result()) == one_by_one(search.view, search.query)


def test_one_that_joins_is_answered_when_it_has_met_every_block_once() -> None:
    scan, query = SharedScan(10 * ROW_BYTES), a_query()
    first, second = ExactSearch(WHOLE, query), ExactSearch(WHOLE, query)
    scan.add(first)
    for _ in range(8):
        scan.advance()
    scan.add(second)
    complete_after = {search: step for step in range(9, 100) if scan for search in scan.advance().complete}
    assert complete_after == {first: 12, second: 20}


def test_a_search_that_leaves_is_scanned_no_further_and_disturbs_no_other() -> None:
    scan, query = SharedScan(10 * ROW_BYTES), a_query()
    leaving, staying = ExactSearch(WHOLE, query), ExactSearch(WHOLE, query)
    scan.add(leaving)
    scan.advance()
    scan.add(staying)
    scan.remove(leaving)
    assert [*run(scan)] == [staying]
    assert ids_and_scores(staying.result()) == one_by_one(WHOLE, query)
    assert not leaving.is_complete


def test_segments_take_turns_so_that_none_waits_for_arrivals_at_another() -> None:
    large, small, query = WHOLE, split_view(0), a_query()
    scan, waiting = SharedScan(10 * ROW_BYTES), ExactSearch(small, query)
    scan.add(waiting)
    steps = 0
    while not waiting.is_complete:
        scan.add(ExactSearch(large, query))  # Another at every step: the scan of `large` never ends.
        scan.advance()
        steps += 1
    assert steps <= 2 * sum(-(-len(each.table) // 10) for each in small.segments)


def test_the_work_left_is_that_of_the_search_that_joined_last() -> None:
    scan, query = SharedScan(10 * ROW_BYTES), a_query()
    scan.add(ExactSearch(WHOLE, query))
    for _ in range(3):
        scan.advance()
    assert [*scan.left().values()] == [(COUNT - 30) * DIMS[IMAGE]]
    scan.add(ExactSearch(WHOLE, query))
    assert [*scan.left().values()] == [COUNT * DIMS[IMAGE]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_a_matrix_product_differs_from_the_exact_scores_by_less_than_the_bound(count: int, dtype: type) -> None:
    vectors: StoredVectors = unit_vectors(600, 96, seed=1).astype(dtype)
    queries = unit_vectors(count, 96, seed=2)
    exact = inner_products(queries, vectors, np.tile(np.arange(600), (count, 1)))
    assert np.abs(matrix_product(queries, vectors) - exact).max() <= rounding_error(96)


def test_float16_vectors_are_scored_as_their_float32_values() -> None:
    """All finite float16 values, the smallest ones included."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    vectors = values[np.isfinite(values)].reshape(-1, 8)
    rows = np.arange(len(vectors))[None, :]
    for component in range(8):
        query = np.eye(8, dtype=np.float32)[component : component + 1]
        assert (inner_products(query, vectors, rows)[0] == vectors[:, component].astype(np.float32)).all()
