"""What a search promises, exact or by codes of any kind: one contract for all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import Host
from index.building.ladder import measured
from index.kinds import choice, engine, formulas
from index.kinds.gpu import Gpu
from index.kinds.passing import Passing
from index.kinds.recipe import Graph, Halves, Lists, resolved
from index.search.space import SpaceIndex
from index.storage.manifest import Rung
from lookalike.vectors import F32
from tests.unit.index.samples import clustered, recall, space_of, unit_vectors

COUNT, DIM = 20_000, 64
DRAWN = clustered(COUNT + 200, DIM)
COMPRESSED = (
    "IVF,PQ4fs",
    "OPQ24_48,IVF,PQ24x4fs",
    "IVF,Flat",
    "IVF,SQ8",
    "PCAR48,IVF,SQ4",
    "IVF,PQ32x8",
    "IVF,RaBitQ",
    "IVF,RaBitQfs",
    "SQfp16",
    "HNSW16",
    "HNSW16,SQ8",
    "NGT",
)
HALVES = "float16"  # Of the default, rescored by halves.
ON_GPU = "IVF,SQ8 on a GPU"  # With a device that is this machine's memory.


@pytest.fixture(scope="module")
def made() -> dict[str, SpaceIndex]:
    """By recipe, each made when it is first asked for."""
    return {}


def space_by(made: dict[str, SpaceIndex], recipe: str) -> SpaceIndex:
    if recipe == ON_GPU and recipe not in made:
        original = space_by(made, "IVF,SQ8")
        assert original.codes is not None
        there = Gpu(Host, "host", limit_bytes=0, max_waiting=4096).place(original.codes)
        made[recipe] = SpaceIndex(entry=original.entry, vectors=original.vectors, rows=original.rows, codes=there)
    if recipe not in made:
        vectors = DRAWN[:COUNT].copy()
        vectors[100:140] = vectors[100]  # One photo that forty products share.
        kept = vectors.astype(np.float16) if recipe == HALVES else vectors
        made[recipe] = space_of(kept, "IVF,PQ4fs" if recipe == HALVES else recipe, np.arange(COUNT) * 2)
    return made[recipe]


@pytest.fixture(params=COMPRESSED)
def compressed(request: pytest.FixtureRequest, made: dict[str, SpaceIndex]) -> SpaceIndex:
    return space_by(made, request.param)


@pytest.fixture(params=["Flat", HALVES, ON_GPU, *COMPRESSED])
def space(request: pytest.FixtureRequest, made: dict[str, SpaceIndex]) -> SpaceIndex:
    return space_by(made, request.param)


def queries(count: int) -> F32:
    """Not of the catalogue, but of its kind."""
    return DRAWN[COUNT : COUNT + count]


def test_recall_at_10_and_100_is_at_least_that_which_is_promised(space: SpaceIndex) -> None:
    assert recall(space, queries(200), 10) >= 0.95
    assert recall(space, queries(100), 100) >= 0.95


def test_a_kind_is_measured_by_what_it_finds_itself(compressed: SpaceIndex) -> None:
    """A rung that finds less than it is to would pass only by the exact search that completes short answers."""
    asked = queries(32)
    assert compressed.entry.ladder
    for rung in compressed.entry.ladder:
        assert rung.recall >= 0.95
        found = [
            len(found.rows)
            for start in (0, 16)
            for found in compressed.probe(asked[start : start + 16], rung.depth, rung)
        ]
        assert sum(found) >= 0.95 * 32 * rung.depth


SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)


def at_random(query: F32) -> F32:
    return np.random.default_rng(1).random(COUNT, dtype=np.float32)


def by_kind(query: F32) -> F32:
    """Whole neighbourhoods pass, or do not: as of a category."""
    kind: F32 = (DRAWN[:COUNT] @ DRAWN[:200].T).argmax(axis=1).astype(np.float32)
    return kind


def by_side(query: F32) -> F32:
    along: F32 = DRAWN[:COUNT] @ unit_vectors(1, DIM, seed=4)[0]
    return along


def by_distance(query: F32) -> F32:
    far: F32 = -(DRAWN[:COUNT] @ query)
    return far


@pytest.mark.parametrize("share", SELECTIVITIES)
@pytest.mark.parametrize("trait", [at_random, by_kind, by_side, by_distance])
def test_under_a_filter_recall_is_no_less_whatever_the_filter_has_to_do_with_the_vectors(
    space: SpaceIndex, trait: Callable[[F32], F32], share: float
) -> None:
    """The products pass that have the most of a trait."""
    asked, hits = queries(40), 0
    for query in asked:
        mask = np.zeros(COUNT, dtype=np.bool_)
        mask[np.argpartition(-trait(query), round(share * COUNT))[: round(share * COUNT)]] = True
        passing = Passing.of(mask)
        (truth,), (found,) = (space.search(query[None, :], 10, passing, exact=exact) for exact in (True, False))
        assert len(found.rows) == 10
        hits += len(np.intersect1d(truth.rows, found.rows))
    assert hits / (10 * len(asked)) >= 0.95 * recall(space, asked, 10)


def test_results_fall_by_score_and_rise_by_row_where_scores_are_equal(space: SpaceIndex) -> None:
    (found,) = space.search(space.vectors[100:101].astype(np.float32), 40)
    assert np.isclose(found.scores, 1, atol=1e-3 if space.vectors.dtype == np.float16 else 1e-6).all()
    assert found.rows.tolist() == list(range(200, 280, 2))
    for rows, scores in space.search(queries(20), 50):
        assert (np.lexsort((rows, -scores)) == np.arange(50)).all()


def test_scores_are_cosines_of_the_full_vectors_to_the_last_bit_of_exact_search(space: SpaceIndex) -> None:
    asked = queries(20)
    for query, approximate, true in zip(
        asked, space.search(asked, 10), space.search(asked, 10, exact=True), strict=True
    ):
        cosines = space.vectors[approximate.rows // 2].astype(np.float32) @ query
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


@pytest.mark.parametrize("min_results", [10, 300, 9999])
def test_at_least_min_results_are_found(made: dict[str, SpaceIndex], min_results: int) -> None:
    """Where the visited lists hold fewer than k but at least min_results, no exact search follows."""
    compressed = space_by(made, "IVF,PQ4fs")
    ladder = (Rung(depth=1000, search_parameter=2, factor=4, cost=0, recall=1),)
    entry = replace(compressed.entry, ladder=ladder)
    space = SpaceIndex(entry=entry, vectors=compressed.vectors, rows=compressed.rows, codes=compressed.codes)
    counts = [len(found.rows) for found in space.search(queries(20), 1000, min_results=min_results)]
    assert all(min(min_results, 1000) <= count <= 1000 for count in counts)
    assert (min(counts) < 1000) == (min_results == 10)


def test_where_nothing_passes_nothing_is_found(space: SpaceIndex) -> None:
    (found,) = space.search(queries(1), 10, Passing.of(np.zeros(COUNT, dtype=np.bool_)))
    assert not len(found.rows)
    assert not len(space.search(queries(1), 0)[0].rows)


def test_many_threads_get_the_answers_that_one_gets(space: SpaceIndex) -> None:
    asked = queries(64)
    passing = Passing.of(np.random.default_rng(3).random(COUNT) < 0.5)
    alone = [space.search(query[None, :], 10, passing)[0].rows.tolist() for query in asked]
    with ThreadPoolExecutor(4, initializer=engine.use_threads, initargs=(1,)) as threads:
        found = list(threads.map(lambda query: space.search(query[None, :], 10, passing)[0].rows.tolist(), asked))
    assert found == alone


def test_a_row_without_a_vector_has_none(space: SpaceIndex) -> None:
    assert space.vector(1) is None
    assert space.vector(2 * COUNT) is None
    vector = space.vector(4)
    assert vector is not None
    assert (vector == space.vectors[2]).all()


@pytest.mark.parametrize("recipe", ["IVF,PQ4fs", "IVF,RaBitQ", "IVF,RaBitQfs", "IVF,SQ4", "HNSW8,SQ8"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 6, 7, 30, 66])
def test_vectors_of_any_dimension_can_be_compressed(recipe: str, dim: int) -> None:
    """Where codes do not tell enough such a space is searched exactly."""
    space = space_of(unit_vectors(2000, dim), recipe)
    assert len(space.search(unit_vectors(3, dim, seed=1), 10)[0].rows) == 10


@pytest.mark.parametrize("recipe", [recipe for recipe in COMPRESSED if recipe != "NGT"])
def test_the_same_vectors_and_seed_give_the_same_codes(recipe: str) -> None:
    vectors, asked = clustered(5000, DIM), clustered(16, DIM, seed=5)
    wanted = resolved(recipe, 5000, DIM, 0)
    assert wanted is not None
    first, second = (choice.trained(wanted, vectors, 7, threads) for threads in (1, 2))
    search_parameter = max(first.efforts(40))
    assert (first.candidates(asked, 40, search_parameter) == second.candidates(asked, 40, search_parameter)).all()


@pytest.mark.parametrize("recipe", COMPRESSED)
def test_codes_can_be_filled_with_other_vectors_while_they_are_searched(recipe: str) -> None:
    """What compaction does: other vectors, by what was learnt of these, which stay as they are."""
    vectors, asked = clustered(5000, DIM), clustered(16, DIM, seed=5)
    wanted = resolved(recipe, 5000, DIM, 0)
    assert wanted is not None
    old = choice.trained(wanted, vectors, 0, 1)
    search_parameter = max(old.efforts(40))
    before = old.candidates(asked, 40, search_parameter)
    other = np.concatenate((vectors[::-1], clustered(500, DIM, seed=3)))
    new = old.refilled(other)
    assert (old.candidates(asked, 40, search_parameter) == before).all()
    assert (new.documents, new.dim, old.documents) == (5500, DIM, 5000)
    itself = new.candidates(np.ascontiguousarray(other[-16:]), 40, search_parameter)
    assert [row in found for row, found in zip(range(5484, 5500), itself, strict=True)] == [True] * 16


@pytest.mark.parametrize("recipe", COMPRESSED)
def test_codes_are_read_as_they_were_written(made: dict[str, SpaceIndex], recipe: str, tmp_path: Path) -> None:
    codes = space_by(made, recipe).codes
    wanted = resolved(recipe, COUNT, DIM, 0)
    assert codes is not None
    assert wanted is not None
    codes.write(tmp_path / "codes")
    again = choice.read(tmp_path / "codes", wanted, DIM)
    assert (again.documents, again.dim, again.ram_bytes()) == (COUNT, DIM, codes.ram_bytes())
    search_parameter = max(codes.efforts(40))
    found = again.candidates(queries(16), 40, search_parameter)
    assert (found == codes.candidates(queries(16), 40, search_parameter)).all()


@pytest.mark.parametrize("recipe", [recipe for recipe in COMPRESSED if recipe != "NGT"])
def test_the_memory_of_codes_is_what_the_formula_says(made: dict[str, SpaceIndex], recipe: str) -> None:
    """Memory is told of indexes too large to try."""
    codes, wanted = space_by(made, recipe).codes, resolved(recipe, COUNT, DIM, 0)
    assert codes is not None
    assert isinstance(wanted, Lists | Graph | Halves)
    assert formulas.ram_bytes(wanted, COUNT, DIM) == pytest.approx(codes.ram_bytes(), rel=0.02)


def test_what_compression_cannot_find_is_searched_exactly(caplog: pytest.LogCaptureFixture) -> None:
    """A target that no work reaches leaves no ladder, and says so."""
    vectors = unit_vectors(2000, 32)
    wanted = resolved("IVF,PQ4fs", 2000, 32, 0)
    assert wanted is not None
    assert measured(choice.trained(wanted, vectors, 0, 1), vectors, 0, target=1.01) == ()
    assert "out of reach" in caplog.text
