"""A view of several segments gives the same results as one segment of all products; deleted ones are never returned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from index.backends.faiss_support import use_threads
from index.live.delta import Delta
from index.live.updates import Change
from index.search.cost import UNLIMITED, WorkLimit
from index.search.queries import parse_query
from index.search.segment import Segment, SegmentHits
from index.search.space import SpaceIndex
from index.search.view import LimitedView, View
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.strings import Strings
from lookalike import shard_query
from lookalike.releases.manifest import IndexEntry, SpaceEntry
from lookalike.runtime.grouping import limit_per_shop
from lookalike.spaces import space_name
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.v1.types_pb2 import Filter, Product
from lookalike.vectors import F32, I64
from tests.unit.index.samples import IMAGE, TEXT, catalogue, query_vector, unit_vectors

COUNT = 120
PRODUCTS = attributes.with_serialized_products(attributes.validate_products(catalogue(COUNT)).sort_by("id"))
NAMES = PRODUCTS["id"].to_pylist()
VECTORS = {IMAGE: unit_vectors(COUNT, 8), TEXT: unit_vectors(COUNT, 4, seed=1)}
VECTORS[IMAGE][30:60] = VECTORS[IMAGE][7]  # One photo that thirty-one products share.
DIMS = {IMAGE: 8, TEXT: 4}
SPACES = [
    SpaceEntry(name=space_name(space), dim=dim, encoder="drawn", rescore="float32", documents=(), indexes=())
    for space, dim in DIMS.items()
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


def rows_with_text(rows: I64) -> I64:
    """Indices of the products that have a text vector: every third has none."""
    return np.flatnonzero(rows % 3)


def segment_of(rows: I64) -> Segment:
    """A segment as on disk: rows rise with the ids."""
    table = Attributes(attributes.to_record_batch(PRODUCTS.take(rows)))
    vectors = {IMAGE: VECTORS[IMAGE][rows], TEXT: VECTORS[TEXT][rows[rows_with_text(rows)]]}
    rows_by_space = {IMAGE: np.arange(len(rows)), TEXT: rows_with_text(rows)}
    return Segment(
        table,
        {
            number: SpaceIndex(entry=IndexEntry(), vectors=vectors[number], rows=rows_by_space[number], ann_index=None)
            for number in (IMAGE, TEXT)
        },
    )


def delta_of(rows: I64, random: np.random.Generator) -> Segment:
    """A delta of the same products, added in random order, a few at a time."""
    delta = Delta(SPACES, COUNT)
    data = PRODUCTS["product"].to_pylist()
    for group in np.array_split(random.permutation(rows), 7):
        delta.apply(
            [
                Change(
                    NAMES[row].encode(),
                    1,
                    Product.FromString(data[row]),
                    {IMAGE: VECTORS[IMAGE][row]} | ({TEXT: VECTORS[TEXT][row]} if row % 3 else {}),
                )
                for row in group
            ]
        )
    return delta.segment()


def split_view(seed: int) -> View:
    random = np.random.default_rng(seed)
    part_of = random.integers(0, 3, COUNT)
    segments = [segment_of(np.flatnonzero(part_of == part)) for part in (0, 1)]
    return View([*segments, delta_of(np.flatnonzero(part_of == 2), random)])


WHOLE = View([segment_of(np.arange(COUNT))])


def queries() -> list[shard_query.ShardQuery]:
    condition = Filter(shop_in=["shop 1"], min_price=10)
    image, text = query_vector(IMAGE, VECTORS[IMAGE][7], 2), query_vector(TEXT, VECTORS[TEXT][8], 1)
    messages = [
        ShardQuery(vectors=vectors, k=k, filter=each, exact=exact, explain=True)
        for vectors in ([image], [text], [image, text])
        for k in (0, 1, 10, 25, COUNT)
        for each in (None, condition, Filter(shop_in=["none"]))
        for exact in (False, True)
    ]
    return [parse_query(each, DIMS) for each in messages]


def results(view: View) -> list[tuple[Sequence[str], F32, F32]]:
    return [
        (hits.ids, hits.scores, view.cosines(query, hits.refs))
        for query, hits in zip(queries(), view.nearest(queries()), strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_results_do_not_depend_on_how_products_are_split_into_segments_even_with_ties(seed: int) -> None:
    for (ids, scores, cosines), (true_ids, true_scores, true_cosines) in zip(
        results(split_view(seed)), results(WHOLE), strict=True
    ):
        assert ids == true_ids
        assert (scores == true_scores).all()
        assert (cosines == true_cosines).all()


@pytest.mark.parametrize("condition", [Filter(), Filter(category_in=["fashion"], in_stock=True)])
def test_counts_and_lists_do_not_depend_on_how_products_are_split_into_segments(condition: Filter) -> None:
    data, view = condition.SerializeToString(), split_view(4)
    assert view.count(data) == WHOLE.count(data) > 0
    for after in ("", "p3", "p999"):
        page = view.page(data, after, 20)
        assert [product_id for product_id, _ in page] == [i for i, _ in WHOLE.page(data, after, 20)]
        assert all(ref.id == product_id for product_id, ref in page)


@pytest.mark.parametrize("seed", range(3))
def test_after_deletions_results_are_as_if_the_products_had_never_existed(seed: int) -> None:
    random = np.random.default_rng(seed)
    view, kept = split_view(seed), np.ones(COUNT, dtype=np.bool_)
    for _ in range(4):  # Deletion upon deletion.
        deleted = random.choice(COUNT, 20, replace=False)
        kept[deleted] = False
        refs = [ref for row in deleted if (ref := view.find(NAMES[row])) is not None]
        view = View([each.with_deleted([row for segment, row in refs if segment is each]) for each in view.segments])
    expected = View([segment_of(np.flatnonzero(kept))])
    for (ids, scores, _), (true_ids, true_scores, _) in zip(results(view), results(expected), strict=True):
        assert ids == true_ids
        assert (scores == true_scores).all()
    assert len(view) == view.count(b"") == kept.sum()
    assert [view.find(name) is not None for name in NAMES] == kept.tolist()
    assert view.vector_count(TEXT) == np.count_nonzero(np.flatnonzero(kept) % 3)
    assert [i for i, _ in view.page(b"", "", COUNT)] == [i for i, _ in expected.page(b"", "", COUNT)]


def test_a_deletion_does_not_change_the_segment_before_it() -> None:
    (segment,) = WHOLE.segments
    fewer = segment.with_deleted([3, 5])
    assert (len(segment), len(fewer), len(fewer.with_deleted([4]))) == (COUNT, COUNT - 2, COUNT - 3)
    assert len(fewer.with_deleted([3])) == COUNT - 2  # Deleted once, and once more.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition", [None, Filter(in_stock=True)])
@pytest.mark.parametrize(("k", "max_per_shop"), [(5, 1), (5, 2), (25, 3), (25, COUNT)])
def test_the_best_of_each_shop_are_the_first_of_each_in_the_whole_ranking(
    seed: int, condition: Filter | None, k: int, max_per_shop: int
) -> None:
    image, text = query_vector(IMAGE, VECTORS[IMAGE][7], 2), query_vector(TEXT, VECTORS[TEXT][8], 1)
    for vectors in ([image], [text], [image, text]):
        message = ShardQuery(
            vectors=vectors, k=k, filter=condition, max_per_shop=max_per_shop, exclude_ids=["p7", "p40"]
        )
        query, view = parse_query(message, DIMS), split_view(seed)
        view = View([each.with_deleted([3, 4, 5]) for each in view.segments])
        (all_hits,) = view.nearest([query._replace(k=COUNT, exact=True)])
        others = all_hits.select(
            [i for i, product_id in enumerate(all_hits.ids) if product_id not in query.exclude_ids]
        )
        expected = others.select(limit_per_shop(others.shops, max_per_shop, k))
        limited = LimitedView(view, UNLIMITED)
        ranking = limited.best_per_shop(query)
        assert ranking is not None
        best = ranking.select(limit_per_shop(ranking.shops, max_per_shop, k))
        assert best.ids == expected.ids
        assert (best.scores == expected.scores).all()
        assert limited.max_hits(query) == len(expected.ids)


class CountingStrings(Strings):
    """Counts the values that were read."""

    read = 0

    def values_at(self, rows: npt.NDArray[np.integer]) -> list[bytes]:
        self.read += len(rows)
        return super().values_at(rows)

    def __getitem__(self, i: int) -> bytes:
        self.read += 1
        return super().__getitem__(i)


def test_products_are_read_only_of_the_hits_that_are_returned() -> None:
    segment = segment_of(np.arange(COUNT))
    assert isinstance(segment.table, Attributes)
    segment.table.products = products = CountingStrings(PRODUCTS["product"].combine_chunks())
    (hits,) = View([segment]).nearest(
        [parse_query(ShardQuery(vectors=[query_vector(IMAGE, VECTORS[IMAGE][7])], k=25), DIMS)]
    )
    assert products.read == 0
    assert [Product.FromString(data).id for data in hits.select([2, 5]).products] == [hits.ids[2], hits.ids[5]]
    assert products.read == 2


class CountingSegment(Segment):
    """Counts its searches, and the depth of each."""

    depths: list[int]

    def nearest(
        self, queries: Sequence[shard_query.ShardQuery], limit: WorkLimit = UNLIMITED
    ) -> list[SegmentHits | None]:
        self.depths.extend(query.k for query in queries)
        return super().nearest(queries, limit)


def counting_view(few: I64) -> tuple[View, list[int]]:
    """A view of two segments, and the depths to which that of these few products is searched."""
    rest, part = segment_of(np.setdiff1d(np.arange(COUNT), few)), segment_of(few)
    counting = CountingSegment(part.table, part.spaces)
    counting.depths = []
    return View([rest, counting]), counting.depths


def image_query(row: int, k: int) -> shard_query.ShardQuery:
    return parse_query(ShardQuery(vectors=[query_vector(IMAGE, VECTORS[IMAGE][row])], k=k), DIMS)


def test_a_segment_of_few_products_is_searched_for_fewer_than_k() -> None:
    view, depths = counting_view(np.arange(100, COUNT, 2))
    (hits,) = view.nearest([image_query(70, 20)])
    assert hits.ids == WHOLE.nearest([image_query(70, 20)])[0].ids
    assert depths == [6]  # A twelfth of 20, two standard deviations and one more.


def test_a_segment_that_turns_out_to_hold_more_of_the_best_is_searched_again_for_all_k() -> None:
    nearest_rows = np.argsort(-(VECTORS[IMAGE] @ VECTORS[IMAGE][70]))[:12]
    view, depths = counting_view(np.sort(nearest_rows))
    asked = [image_query(70, 10), image_query(7, 1)]
    found, expected = view.nearest(asked), WHOLE.nearest(asked)
    assert [hits.ids for hits in found] == [hits.ids for hits in expected]
    assert depths == [4, 1, 10]
