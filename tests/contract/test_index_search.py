"""The contract of a space's search, run over exact search and every ANN backend."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import Host
from index.backends import cost_model, factory, faiss_support
from index.backends.filter_bitmap import FilterBitmap
from index.backends.gpu import Gpu
from index.backends.hnsw import HnswIndex
from index.backends.recipe import NgtRecipe, resolve_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import calibrate, draw_queries
from index.search.space import SpaceIndex
from lookalike.releases.manifest import OperatingPoint
from lookalike.vectors import F32, I64
from tests.unit.index.samples import build_space, clustered, recall, unit_vectors

COUNT, DIM = 10_000, 64
VECTORS = clustered(COUNT + 200, DIM)
COMPRESSED = (
    "IVF,PQ4fs",
    "OPQ24_48,IVF,PQ24x4fs",
    "IVF,Flat",
    "IVF,SQ8",
    "PCAR48,IVF,SQ4",
    "IVF,PQ16x8",
    "IVF,RaBitQ",
    "IVF,RaBitQfs",
    "SQfp16",
    "HNSW16",
    "HNSW16,SQ8",
    "PCAR48,HNSW16,SQ8",
    "SymQG32",
    "PCAR64,SymQG32",
    "NGT",
)
UNSEEDED = ("SymQG32", "PCAR64,SymQG32", "NGT")  # Their libraries take no seed: no two builds are the same.
HALF_PRECISION = "float16"  # The default recipe, rescored with float16 vectors.
ON_GPU = "IVF,SQ8 on a GPU"  # With a fake device in this machine's memory.


@pytest.fixture(scope="module")
def spaces() -> dict[str, SpaceIndex]:
    """By recipe, each built on first use."""
    return {}


def space_with(spaces: dict[str, SpaceIndex], recipe: str) -> SpaceIndex:
    if recipe == ON_GPU and recipe not in spaces:
        original = space_with(spaces, "IVF,SQ8")
        assert original.ann_index is not None
        placed = Gpu(Host, "host", limit_bytes=0, max_waiting=4096).place(original.ann_index)
        spaces[recipe] = SpaceIndex(
            entry=original.entry, vectors=original.vectors, rows=original.rows, ann_index=placed
        )
    if recipe not in spaces:
        vectors = VECTORS[:COUNT].copy()
        vectors[100:120] = vectors[100]  # Twenty products share one photo.
        stored = vectors.astype(np.float16) if recipe == HALF_PRECISION else vectors
        spaces[recipe] = build_space(stored, "IVF,PQ4fs" if recipe == HALF_PRECISION else recipe, np.arange(COUNT) * 2)
    return spaces[recipe]


@pytest.fixture(params=COMPRESSED)
def compressed(request: pytest.FixtureRequest, spaces: dict[str, SpaceIndex]) -> SpaceIndex:
    return space_with(spaces, request.param)


@pytest.fixture(params=["Flat", HALF_PRECISION, ON_GPU, *COMPRESSED])
def space(request: pytest.FixtureRequest, spaces: dict[str, SpaceIndex]) -> SpaceIndex:
    return space_with(spaces, request.param)


def queries(count: int) -> F32:
    """Vectors that are not indexed, from the same distribution."""
    return VECTORS[COUNT : COUNT + count]


def test_recall_at_10_and_100_reaches_the_target(space: SpaceIndex) -> None:
    """Within two standard errors of the recall that the build measured."""
    assert recall(space, queries(200), 10) >= 0.94
    assert recall(space, queries(100), 100) >= 0.94


def test_calibrated_recall_is_reached_without_the_exact_search_that_completes_short_results(
    compressed: SpaceIndex,
) -> None:
    """Otherwise an operating point that finds too little would reach the target by that exact search alone."""
    query_vectors = queries(32)
    assert compressed.entry.operating_points
    for point in compressed.entry.operating_points:
        assert point.recall + 3 * point.standard_error >= 0.95
        counts = [
            len(neighbours.rows)
            for start in (0, 16)
            for neighbours in compressed.probe(query_vectors[start : start + 16], point.depth, point)
        ]
        assert sum(counts) >= 0.95 * 32 * point.depth


SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
FILTERED_QUERIES = 40
Truths = dict[tuple[str, float, str], list[I64]]


@pytest.fixture(scope="module")
def truths() -> Truths:
    """By trait, share that passes, and type of the vectors: the rows that exact search finds, for each query."""
    return {}


@pytest.fixture(scope="module")
def unfiltered_recalls() -> dict[int, float]:
    """By the identity of a space: its recall@10 without a filter."""
    return {}


def random_trait(query: F32) -> F32:
    return np.random.default_rng(1).random(COUNT, dtype=np.float32)


def cluster_trait(query: F32) -> F32:
    """Whole clusters pass or fail, as with a category."""
    cluster: F32 = (VECTORS[:COUNT] @ VECTORS[:200].T).argmax(axis=1).astype(np.float32)
    return cluster


def direction_trait(query: F32) -> F32:
    along: F32 = VECTORS[:COUNT] @ unit_vectors(1, DIM, seed=4)[0]
    return along


def distance_trait(query: F32) -> F32:
    far: F32 = -(VECTORS[:COUNT] @ query)
    return far


@functools.cache
def filtered_batches(trait: Callable[[F32], F32], share: float) -> list[tuple[F32, FilterBitmap]]:
    """Queries with their filter, which this share of the products passes: those with the largest trait."""
    each_alone = trait is distance_trait  # Of the others, all queries have the same.
    parts = queries(FILTERED_QUERIES).reshape((-1, 1, DIM) if each_alone else (1, -1, DIM))
    batches = []
    for part in parts:
        mask = np.zeros(COUNT, dtype=np.bool_)
        mask[np.argpartition(-trait(part[0]), round(share * COUNT))[: round(share * COUNT)]] = True
        batches.append((part, FilterBitmap.from_mask(mask)))
    return batches


@pytest.mark.parametrize("share", SELECTIVITIES)
@pytest.mark.parametrize("trait", [random_trait, cluster_trait, direction_trait, distance_trait])
def test_a_filter_does_not_lower_recall_however_it_correlates_with_the_vectors(
    space: SpaceIndex,
    truths: Truths,
    unfiltered_recalls: dict[int, float],
    trait: Callable[[F32], F32],
    share: float,
) -> None:
    def rows(*, exact: bool) -> list[I64]:
        batches = filtered_batches(trait, share)
        return [each.rows for part, bitmap in batches for each in space.search(part, 10, bitmap, exact=exact)]

    key = (trait.__name__, share, str(space.vectors.dtype))
    if key not in truths:
        truths[key] = rows(exact=True)
    if id(space) not in unfiltered_recalls:
        unfiltered_recalls[id(space)] = recall(space, queries(FILTERED_QUERIES), 10)
    found = rows(exact=False)
    assert [len(each) for each in found] == [10] * FILTERED_QUERIES
    hits = sum(len(np.intersect1d(one, other)) for one, other in zip(truths[key], found, strict=True))
    assert hits / (10 * FILTERED_QUERIES) >= 0.95 * unfiltered_recalls[id(space)]


def test_results_are_sorted_by_falling_score_and_by_rising_row_where_scores_are_equal(space: SpaceIndex) -> None:
    (neighbours,) = space.search(space.vectors[100:101].astype(np.float32), 20)
    assert np.isclose(neighbours.scores, 1, atol=1e-3 if space.vectors.dtype == np.float16 else 1e-6).all()
    assert neighbours.rows.tolist() == list(range(200, 240, 2))
    for rows, scores in space.search(queries(20), 50):
        assert (np.lexsort((rows, -scores)) == np.arange(50)).all()


def test_scores_are_cosines_of_the_full_vectors_and_equal_those_of_exact_search_to_the_last_bit(
    space: SpaceIndex,
) -> None:
    query_vectors = queries(20)
    for query, approximate, true in zip(
        query_vectors, space.search(query_vectors, 10), space.search(query_vectors, 10, exact=True), strict=True
    ):
        cosines = space.vectors[approximate.rows // 2].astype(np.float32) @ query
        assert np.allclose(approximate.scores, cosines, atol=1e-6)
        by_row = dict(zip(true.rows.tolist(), true.scores.tolist(), strict=True))
        approximate_by_row = dict(zip(approximate.rows.tolist(), approximate.scores.tolist(), strict=True))
        assert all(approximate_by_row[row] == by_row[row] for row in approximate_by_row.keys() & by_row.keys())


def test_the_result_of_a_query_does_not_depend_on_the_rest_of_its_batch(space: SpaceIndex) -> None:
    query_vectors = queries(40)
    together = space.search(query_vectors, 10)
    for query, neighbours in zip(query_vectors, together, strict=True):
        (alone,) = space.search(query[None, :], 10)
        assert (alone.rows == neighbours.rows).all()
        assert (alone.scores == neighbours.scores).all()


def test_only_products_that_pass_the_filter_are_found(space: SpaceIndex) -> None:
    mask = np.random.default_rng(2).random(COUNT) < 0.3
    for rows, _ in space.search(queries(20), 100, FilterBitmap.from_mask(mask)):
        assert len(rows) == 100
        assert mask[rows // 2].all()


def test_a_search_for_more_products_than_pass_returns_all_that_pass(space: SpaceIndex) -> None:
    mask = np.zeros(COUNT, dtype=np.bool_)
    mask[5:18] = True
    (neighbours,) = space.search(queries(1), 1000, FilterBitmap.from_mask(mask))
    assert sorted(neighbours.rows.tolist()) == list(range(10, 36, 2))


def test_a_search_for_many_products_returns_that_many(space: SpaceIndex) -> None:
    """Even where the visited lists hold fewer."""
    for query in (*queries(3), *unit_vectors(3, DIM, seed=9)):
        (neighbours,) = space.search(query[None, :], 4096)
        assert len(np.unique(neighbours.rows)) == 4096
    (everything,) = space.search(queries(1), COUNT + 5)
    assert len(everything.rows) == COUNT


@pytest.mark.parametrize("min_results", [10, 300, 9999])
def test_at_least_min_results_are_found(spaces: dict[str, SpaceIndex], min_results: int) -> None:
    """Where the visited lists hold fewer than k products but at least min_results, no exact search follows."""
    compressed = space_with(spaces, "IVF,PQ4fs")
    operating_points = (
        OperatingPoint(depth=1000, search_parameter=2, refine_factor=4, cost=0, recall=1, standard_error=0),
    )
    entry = replace(compressed.entry, operating_points=operating_points)
    space = SpaceIndex(entry=entry, vectors=compressed.vectors, rows=compressed.rows, ann_index=compressed.ann_index)
    counts = [len(neighbours.rows) for neighbours in space.search(queries(20), 1000, min_results=min_results)]
    assert all(min(min_results, 1000) <= count <= 1000 for count in counts)
    assert (min(counts) < 1000) == (min_results == 10)


def test_where_no_product_passes_none_is_found(space: SpaceIndex) -> None:
    (neighbours,) = space.search(queries(1), 10, FilterBitmap.from_mask(np.zeros(COUNT, dtype=np.bool_)))
    assert not len(neighbours.rows)
    assert not len(space.search(queries(1), 0)[0].rows)


def test_concurrent_searches_get_the_same_results_as_serial_ones(space: SpaceIndex) -> None:
    query_vectors = queries(64)
    bitmap = FilterBitmap.from_mask(np.random.default_rng(3).random(COUNT) < 0.5)
    serial = [space.search(query[None, :], 10, bitmap)[0].rows.tolist() for query in query_vectors]
    with ThreadPoolExecutor(4, initializer=faiss_support.use_threads, initargs=(1,)) as threads:
        concurrent = list(
            threads.map(lambda query: space.search(query[None, :], 10, bitmap)[0].rows.tolist(), query_vectors)
        )
    assert concurrent == serial


def test_a_row_without_a_vector_has_no_vector_to_return(space: SpaceIndex) -> None:
    assert space.vector(1) is None
    assert space.vector(2 * COUNT) is None
    vector = space.vector(4)
    assert vector is not None
    assert (vector == space.vectors[2]).all()


@pytest.mark.parametrize("recipe", ["IVF,PQ4fs", "IVF,RaBitQ", "IVF,RaBitQfs", "IVF,SQ4", "HNSW8,SQ8"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 6, 7, 30, 66])
def test_vectors_of_any_dimension_can_be_compressed(recipe: str, dim: int) -> None:
    """Where no operating point reaches the target, such a space is searched exactly."""
    space = build_space(unit_vectors(2000, dim), recipe)
    assert len(space.search(unit_vectors(3, dim, seed=1), 10)[0].rows) == 10


@pytest.mark.parametrize("recipe", [recipe for recipe in COMPRESSED if recipe not in UNSEEDED])
def test_the_same_vectors_and_seed_give_the_same_candidates(recipe: str) -> None:
    vectors, query_vectors = clustered(5000, DIM), clustered(16, DIM, seed=5)
    resolved = resolve_recipe(recipe, 5000, DIM, 0)
    assert resolved is not None
    first, second = (factory.train_index(resolved, vectors, 7, threads) for threads in (1, 2))
    search_parameter = max(first.search_parameters(40))
    assert (
        first.find_candidates(query_vectors, 40, search_parameter)
        == second.find_candidates(query_vectors, 40, search_parameter)
    ).all()


@pytest.mark.parametrize("recipe", COMPRESSED)
def test_an_index_over_other_vectors_reuses_the_training_and_leaves_the_original_unchanged(recipe: str) -> None:
    """Compaction does this while the original is searched."""
    vectors, query_vectors = clustered(5000, DIM), clustered(16, DIM, seed=5)
    resolved = resolve_recipe(recipe, 5000, DIM, 0)
    assert resolved is not None
    old = factory.train_index(resolved, vectors, 0, 1)
    search_parameter = max(old.search_parameters(40))
    before = old.find_candidates(query_vectors, 40, search_parameter)
    other = np.concatenate((vectors[::-1], clustered(500, DIM, seed=3)))
    new = old.with_vectors(other)
    assert (old.find_candidates(query_vectors, 40, search_parameter) == before).all()
    assert (new.documents, new.dim, old.documents) == (5500, DIM, 5000)
    own_candidates = new.find_candidates(np.ascontiguousarray(other[-16:]), 40, search_parameter)
    assert [row in candidates for row, candidates in zip(range(5484, 5500), own_candidates, strict=True)] == [True] * 16


@pytest.mark.parametrize("recipe", COMPRESSED)
def test_an_index_is_read_as_it_was_written(spaces: dict[str, SpaceIndex], recipe: str, tmp_path: Path) -> None:
    index = space_with(spaces, recipe).ann_index
    resolved = resolve_recipe(recipe, COUNT, DIM, 0)
    assert index is not None
    assert resolved is not None
    index.write(tmp_path / "ann_index")
    reread = factory.read_index(tmp_path / "ann_index", resolved, DIM)
    assert (reread.documents, reread.dim, reread.ram_bytes()) == (COUNT, DIM, index.ram_bytes())
    search_parameter = max(index.search_parameters(40))
    candidates = reread.find_candidates(queries(16), 40, search_parameter)
    assert (candidates == index.find_candidates(queries(16), 40, search_parameter)).all()


@pytest.mark.parametrize("recipe", [recipe for recipe in COMPRESSED if recipe != "NGT"])
def test_the_memory_formula_agrees_with_the_index(spaces: dict[str, SpaceIndex], recipe: str) -> None:
    """So that memory can be predicted for indexes too large to build."""
    index, resolved = space_with(spaces, recipe).ann_index, resolve_recipe(recipe, COUNT, DIM, 0)
    assert index is not None
    assert resolved is not None
    assert not isinstance(resolved, NgtRecipe)
    assert cost_model.ram_bytes(resolved, COUNT, DIM) == pytest.approx(index.ram_bytes(), rel=0.02)


def test_where_no_operating_point_reaches_the_target_calibration_returns_none_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vectors = unit_vectors(2000, 32)
    resolved = resolve_recipe("IVF,PQ4fs", 2000, 32, 0)
    assert resolved is not None
    assert calibrate(factory.train_index(resolved, vectors, 0, 1), vectors, draw_queries(2000, 0), target=1.01) == ()
    assert "out of reach" in caplog.text


@pytest.mark.parametrize("recipe", [*COMPRESSED, ON_GPU])
def test_hidden_vectors_are_found_again_only_after_the_context_of_without(recipe: str) -> None:
    vectors = clustered(3000, DIM)
    resolved = resolve_recipe("IVF,SQ8" if recipe == ON_GPU else recipe, 3000, DIM, 0)
    assert resolved is not None
    index: VectorIndex = factory.train_index(resolved, vectors, 0, 1)
    positions = draw_queries(3000, 0)
    if isinstance(index, HnswIndex):  # Every search begins at this node.
        positions[0] = index.graph.hnsw.entry_point
    if recipe == ON_GPU:
        index = Gpu(Host, "host", limit_bytes=0, max_waiting=4096).place(index)
    query_vectors, search_parameter = np.ascontiguousarray(vectors[positions]), max(index.search_parameters(40))
    before = index.find_candidates(query_vectors, 40, search_parameter)
    own = before == positions[:, None]
    assert own.any(axis=1).mean() > 0.99
    hidden = {vectors[position].tobytes() for position in positions}
    with index.without(positions, vectors) as (remaining_index, remaining):
        rows = remaining_index.find_candidates(query_vectors, 40, search_parameter)
        assert (rows >= 0).mean() > 0.9
        assert not hidden & {remaining[row].tobytes() for row in rows[rows >= 0]}
    assert (index.find_candidates(query_vectors, 40, search_parameter) == before).all()
