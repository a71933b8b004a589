"""What a search promises, exact or compressed: one contract for both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from index.building.ladder import measured
from index.kinds import codes
from index.kinds.passing import Passing
from index.search.space import SpaceIndex
from index.storage.manifest import IndexEntry, Rung
from tests.unit.index.samples import clustered, recall, unit_vectors

COUNT, DIM = 20_000, 64


@pytest.fixture(scope="module")
def compressed() -> SpaceIndex:
    vectors = clustered(COUNT, DIM)
    vectors[100:140] = vectors[100]  # One photo that forty products share.
    made = codes.trained(vectors, 0, 1)
    entry = IndexEntry(recipe=codes.recipe_of(COUNT, DIM), nlist=made.nlist, ladder=measured(made, vectors, 0))
    return SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(COUNT) * 2, codes=made)


@pytest.fixture(params=["exact", "compressed"])
def space(request: pytest.FixtureRequest, compressed: SpaceIndex) -> SpaceIndex:
    if request.param == "compressed":
        return compressed
    return SpaceIndex(entry=IndexEntry(), vectors=compressed.vectors, rows=compressed.rows, codes=None)


def queries(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Not of the catalogue, but of its kind."""
    return clustered(COUNT + count, DIM)[COUNT:]


def test_recall_at_10_and_100_is_at_least_that_which_is_promised(space: SpaceIndex) -> None:
    assert recall(space, queries(200), 10) >= 0.95
    assert recall(space, queries(100), 100) >= 0.95


def test_recall_is_measured_in_the_lists_alone(compressed: SpaceIndex) -> None:
    """A rung that visits less than it is to find would pass only by the exact search that completes short answers."""
    for rung in compressed.entry.ladder:
        assert rung.nprobe * COUNT / compressed.entry.nlist >= 0.95 * rung.depth
        assert rung.recall >= 0.95


def test_under_a_filter_recall_holds(space: SpaceIndex) -> None:
    random = np.random.default_rng(1)
    for share in (0.5, 0.2, 0.05):
        passing = Passing.of(random.random(COUNT) < share)
        truth = space.search(queries(100), 10, passing, audit=True)
        found = space.search(queries(100), 10, passing)
        shared = sum(len(np.intersect1d(one.rows, other.rows)) for one, other in zip(truth, found, strict=True))
        assert shared / 1000 >= 0.93


def test_results_fall_by_score_and_rise_by_row_where_scores_are_equal(space: SpaceIndex) -> None:
    (found,) = space.search(space.vectors[100:101], 40)
    assert np.isclose(found.scores, 1, atol=1e-6).all()
    assert found.rows.tolist() == list(range(200, 280, 2))
    for rows, scores in space.search(queries(20), 50):
        assert (np.lexsort((rows, -scores)) == np.arange(50)).all()


def test_scores_are_cosines_of_the_full_vectors_to_the_last_bit_of_exact_search(space: SpaceIndex) -> None:
    asked = queries(20)
    for query, approximate, true in zip(
        asked, space.search(asked, 10), space.search(asked, 10, audit=True), strict=True
    ):
        cosines = space.vectors[approximate.rows // 2] @ query
        assert np.allclose(approximate.scores, cosines, atol=1e-6)
        by_row = dict(zip(true.rows.tolist(), true.scores.tolist(), strict=True))
        mine = dict(zip(approximate.rows.tolist(), approximate.scores.tolist(), strict=True))
        assert all(mine[row] == by_row[row] for row in mine.keys() & by_row.keys())


def test_an_answer_does_not_depend_on_its_company(space: SpaceIndex) -> None:
    asked = queries(40)
    together = space.search(asked, 10)
    for query, found in zip(asked, together, strict=True):
        (alone,) = space.search(query[None, :], 10)
        assert (alone.rows == found.rows).all()
        assert (alone.scores == found.scores).all()


def test_only_what_passes_is_found(space: SpaceIndex) -> None:
    mask = np.random.default_rng(2).random(COUNT) < 0.3
    for rows, _ in space.search(queries(20), 100, Passing.of(mask)):
        assert len(rows) == 100
        assert mask[rows // 2].all()


def test_a_search_for_more_than_pass_gives_all_that_pass(space: SpaceIndex) -> None:
    mask = np.zeros(COUNT, dtype=np.bool_)
    mask[5:18] = True
    (found,) = space.search(queries(1), 1000, Passing.of(mask))
    assert sorted(found.rows.tolist()) == list(range(10, 36, 2))


def test_a_search_for_much_gives_that_much(space: SpaceIndex) -> None:
    """Even where the lists that are visited hold less."""
    for asked in (*queries(3), *unit_vectors(3, DIM, seed=9)):
        (found,) = space.search(asked[None, :], 4096)
        assert len(np.unique(found.rows)) == 4096
    (everything,) = space.search(queries(1), COUNT + 5)
    assert len(everything.rows) == COUNT


@pytest.mark.parametrize("enough", [10, 300, 9999])
def test_at_least_as_many_as_are_enough_are_found(compressed: SpaceIndex, enough: int) -> None:
    """Where the lists that are visited hold less than is asked for, but enough, the rest is not compared."""
    ladder = (Rung(depth=1000, nprobe=4, factor=4, recall=1),)
    entry = replace(compressed.entry, ladder=ladder)
    space = SpaceIndex(entry=entry, vectors=compressed.vectors, rows=compressed.rows, codes=compressed._codes)
    counts = [len(found.rows) for found in space.search(queries(20), 1000, enough=enough)]
    assert all(min(enough, 1000) <= count <= 1000 for count in counts)
    assert (min(counts) < 1000) == (enough == 10)


def test_where_nothing_passes_nothing_is_found(space: SpaceIndex) -> None:
    (found,) = space.search(queries(1), 10, Passing.of(np.zeros(COUNT, dtype=np.bool_)))
    assert not len(found.rows)
    assert not len(space.search(queries(1), 0)[0].rows)


def test_many_threads_get_the_answers_that_one_gets(space: SpaceIndex) -> None:
    asked = queries(64)
    passing = Passing.of(np.random.default_rng(3).random(COUNT) < 0.5)
    alone = [space.search(query[None, :], 10, passing)[0].rows.tolist() for query in asked]
    with ThreadPoolExecutor(4, initializer=codes.use_threads, initargs=(1,)) as threads:
        found = list(threads.map(lambda query: space.search(query[None, :], 10, passing)[0].rows.tolist(), asked))
    assert found == alone


def test_a_row_without_a_vector_has_none(space: SpaceIndex) -> None:
    assert space.vector(1) is None
    assert space.vector(2 * COUNT) is None
    vector = space.vector(4)
    assert vector is not None
    assert (vector == space.vectors[2]).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 6, 7, 30, 66])
def test_vectors_of_any_dimension_can_be_compressed(dim: int) -> None:
    vectors = unit_vectors(2000, dim)
    made = codes.trained(vectors, 0, 1)
    ladder = measured(made, vectors, 0)
    if ladder:  # Else even 32 candidates for each result do not hold enough: such a space is searched exactly.
        entry = IndexEntry(recipe=codes.recipe_of(2000, dim), nlist=made.nlist, ladder=ladder)
        space = SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(2000), codes=made)
        assert len(space.search(vectors[:3], 10)[0].rows) == 10


def test_the_same_vectors_and_seed_give_the_same_codes() -> None:
    vectors = clustered(5000, 32)
    space = [
        SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(5000), codes=codes.trained(vectors, 7, threads))
        for threads in (1, 2)
    ]
    asked = clustered(50, 32, seed=5)
    first, second = (one._codes.candidates(asked, 40, 4, None) for one in space if one._codes is not None)
    assert (first == second).all()


def test_what_compression_cannot_find_is_searched_exactly(caplog: pytest.LogCaptureFixture) -> None:
    """A target that no work reaches leaves no ladder, and says so."""
    vectors = unit_vectors(2000, 32)
    assert measured(codes.trained(vectors, 0, 1), vectors, 0, target=1.01) == ()
    assert "out of reach" in caplog.text
