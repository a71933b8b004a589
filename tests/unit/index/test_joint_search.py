"""One ANN index over two segments finds what two would, for every query alone, and leaves to them what it cannot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from index.backends.faiss_support import faiss, use_threads
from index.backends.ivf import IvfIndex
from index.search.cost import UNLIMITED
from index.search.joint_search import JointSearch
from index.search.segment import Segment
from index.search.space import SpaceIndex
from index.search.view import Hits, View
from index.storage import attributes
from index.storage.attributes import Attributes
from lookalike.releases.manifest import IndexEntry
from lookalike.shard_query import ShardQuery
from lookalike.v1.types_pb2 import Filter
from tests.conftest import REPOSITORY
from tests.unit.index.samples import IMAGE, build_space, catalogue, clustered

COUNT, ADDED, DIM = 10_000, 1_500, 64
VECTORS = clustered(COUNT + ADDED + 64, DIM)
QUERIES = VECTORS[COUNT + ADDED :]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Leave cores to other tests."""
    use_threads(1)


def segment(first: int, last: int, space: SpaceIndex) -> Segment:
    table = attributes.with_serialized_products(attributes.validate_products(catalogue(COUNT + ADDED)))
    return Segment(
        Attributes(attributes.to_record_batch(table.slice(first, last - first).sort_by("id"))), {IMAGE: space}
    )


@pytest.fixture(scope="module")
def view() -> View:
    """A base of lists, of which a tenth is deleted, and a second segment; its own index is exact search."""
    base, added = build_space(VECTORS[:COUNT], "IVF,PQ4fs"), VECTORS[COUNT : COUNT + ADDED]
    assert isinstance(base.ann_index, IvfIndex)
    exact = SpaceIndex(entry=IndexEntry(), vectors=added, rows=np.arange(ADDED), ann_index=None)
    segments = segment(0, COUNT, base).with_deleted(range(0, COUNT, 10)), segment(COUNT, COUNT + ADDED, exact)
    return View(segments, {IMAGE: base.ann_index.extended_with(added)})


def queries(**changes: object) -> list[ShardQuery]:
    query = ShardQuery(vectors={}, weights=(1.0,), filter=b"", k=10, exact=False, explain=False)
    return [query._replace(vectors={IMAGE: vector}, **changes) for vector in QUERIES]  # type: ignore[arg-type]  # of any field


def exact(asked: Sequence[ShardQuery]) -> list[ShardQuery]:
    return [query._replace(exact=True) for query in asked]


def recall(found: list[Hits], true: list[Hits]) -> float:
    return sum(len({*one.ids} & {*other.ids}) for one, other in zip(found, true, strict=True)) / (
        sum(len(hits.rows) for hits in true)
    )


def joint(view: View) -> JointSearch:
    assert view.joint_search is not None
    return view.joint_search


@pytest.mark.parametrize("condition", [Filter(), Filter(shop_in=["shop 1"])])
def test_recall_is_that_of_the_base(view: View, condition: Filter) -> None:
    asked = queries(filter=condition.SerializeToString())
    assert all(joint(view).nearest(asked, UNLIMITED))
    base = View(view.segments[:1])
    found, of_base = (recall(each.nearest(asked), each.nearest(exact(asked))) for each in (view, base))
    assert found >= of_base - 0.01


def test_hits_are_of_both_segments_with_the_scores_of_exact_search_and_none_is_deleted(view: View) -> None:
    base, added = view.segments
    rows = {number: set[int]() for number in (0, 1)}
    for found, true in zip(view.nearest(queries()), view.nearest(queries(exact=True)), strict=True):
        scores = dict(zip(true.ids, true.scores.tolist(), strict=True))
        for product_id, score in zip(found.ids, found.scores.tolist(), strict=True):
            assert scores.get(product_id, score) == score
        assert found.segment_indices is not None
        for number, row in zip(found.segment_indices.tolist(), found.rows.tolist(), strict=True):
            rows[number].add(row)
    assert rows[0]
    assert rows[1]
    assert all(row in set(base.live_rows().tolist()) for row in rows[0])
    assert max(rows[1]) < len(added)


def test_the_hits_of_a_query_do_not_depend_on_the_rest_of_its_batch(view: View) -> None:
    for query, together in zip(queries(), view.nearest(queries()), strict=True):
        (alone,) = view.nearest([query])
        assert alone.ids == together.ids
        assert (alone.scores == together.scores).all()


def test_a_vector_that_was_added_is_found_by_itself(view: View) -> None:
    asked = [query._replace(vectors={IMAGE: vector}) for query, vector in zip(queries(), VECTORS[COUNT:], strict=False)]
    found = joint(view).nearest(asked, UNLIMITED)
    assert [hits[1].rows[0] for hits in found if hits is not None] == [*range(len(asked))]


def test_exact_searches_and_those_of_which_few_pass_are_left_to_the_segments(view: View) -> None:
    rare = Filter(category_in=["fashion"], min_price=49, max_price=49, shop_in=["shop 1"])
    for changes in ({"exact": True}, {"filter": rare.SerializeToString()}, {"k": 0}):
        asked = queries(**changes)
        assert joint(view).nearest(asked, UNLIMITED) == [None] * len(asked)
        assert [hits.ids for hits in view.nearest(asked)] == [
            hits.ids for hits in View(view.segments).nearest(exact(asked))
        ]


def test_without_room_in_the_limit_the_search_is_left_to_the_segments(view: View) -> None:
    asked = queries(k=100)
    assert all(joint(view).nearest(asked, UNLIMITED))
    assert not any(joint(view).nearest(asked, UNLIMITED._replace(components=1)))


def test_an_index_of_moved_vectors_finds_what_one_made_anew_finds() -> None:
    """Some vectors are gone, the others are in another order, and new ones are among them."""
    base = build_space(VECTORS[:COUNT], "IVF,PQ4fs").ann_index
    assert isinstance(base, IvfIndex)
    random = np.random.default_rng(0)
    before, count = base.with_vectors(VECTORS[:2_000]), 2_500
    new_positions = np.full(2_000, -1, dtype=np.int64)
    kept = np.sort(random.choice(2_000, 1_600, replace=False))
    new_positions[kept] = random.permutation(count)[: len(kept)]
    vectors = VECTORS[2_000 : 2_000 + count].copy()
    vectors[new_positions[kept]] = VECTORS[kept]
    moved, anew = before.with_moved(vectors, new_positions), base.with_vectors(vectors)
    assert moved.documents == anew.documents == count
    (scores, found), (expected_scores, expected) = (
        faiss.extract_index_ivf(each.lists.index).search(QUERIES, count) for each in (moved, anew)
    )
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))  # All of the nearest list.
    joined = base.merged_with(moved, vectors).find_candidates(QUERIES, 20, 8)
    assert set(joined[joined >= COUNT].tolist()) <= set(range(COUNT, COUNT + count))


MERGES = """
import numpy as np
from index.backends.ivf import IvfIndex
from tests.unit.index.samples import build_space, clustered
base = build_space(clustered(2_000, 16), "IVF,PQ4fs").ann_index
assert isinstance(base, IvfIndex)
(block_bytes,) = {64}  # Of 32 codes of 16 dimensions.
vectors = np.repeat(clustered(1, 16), 64 * block_bytes + 100, axis=0)
first, added = base.with_vectors(vectors[:-100]), base.with_vectors(vectors[-100:])
for _ in range(20):
    merged, kept = first.merged_with(added, vectors[-100:]), [bytearray(1000) for _ in range(100)]
    (found,) = merged.find_candidates(vectors[:1], len(vectors), 1)
    assert np.array_equal(np.sort(found), np.arange(len(vectors))), found
"""


def test_lists_that_end_with_a_block_are_merged_within_their_memory() -> None:
    """In a process of its own: what is written beyond it ends the process, sooner or later."""
    subprocess.run([sys.executable, "-c", MERGES], cwd=REPOSITORY, check=True, timeout=100)
