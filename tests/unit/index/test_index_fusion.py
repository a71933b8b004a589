"""Late fusion: queries by several vectors, in a shard where some products lack vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from index.building.build import SpaceVectors, build
from index.search.queries import MAX_K
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.v1.index_pb2 import QueryVector, ShardHits, ShardQuery
from lookalike.v1.types_pb2 import Filter
from lookalike.vectors import F32, I64, pack, unpack
from tests.unit.index.samples import IMAGE, PRODUCT, TEXT, catalogue, clustered, query_vector, unit_vectors, vectors_of

COUNT = 3000
DIMS: dict[int, int] = {IMAGE: 64, TEXT: 32, PRODUCT: 16}
# Every fifth product has no image vector, every seventh no text vector, every third no product vector.
ROWS: dict[int, I64] = {
    space: np.flatnonzero(np.arange(COUNT) % interval) for space, interval in ((IMAGE, 5), (TEXT, 7), (PRODUCT, 3))
}
VECTORS: dict[int, F32] = {
    space: clustered(COUNT, dim, seed=0) for space, dim in DIMS.items()
}  # One seed: of one kind in all spaces.
EQUAL_PRODUCTS = (40, 60, 80, 100)  # Products of one photo and one title.


@pytest.fixture(scope="module", params=["exact", "compressed"])
def shard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    location = tmp_path_factory.mktemp("fused")
    for vectors in VECTORS.values():
        vectors[list(EQUAL_PRODUCTS)] = vectors[EQUAL_PRODUCTS[0]]
    spaces: dict[int, SpaceVectors] = {space: vectors_of(VECTORS[space][rows], rows) for space, rows in ROWS.items()}
    exact_floats = 1 << 30 if request.param == "exact" else 1000
    build(location, catalogue(COUNT), spaces, shards=1, exact_floats=exact_floats)
    loaded = open_shard(location, 0)
    assert [bool(space.entry.operating_points) for space in loaded.base.spaces.values()] == [
        request.param == "compressed"
    ] * 3
    return loaded


def noisy_query_vector(space: int, row: int, weight: float = 1) -> QueryVector:
    """A vector near that of a product, equal to none."""
    noisy = VECTORS[space][row] + 0.1 * unit_vectors(1, DIMS[space], seed=row)[0]
    return query_vector(space, (noisy / np.linalg.norm(noisy)).astype(np.float32), weight)


def query_vectors_in_all_spaces(row: int) -> list[QueryVector]:
    return [noisy_query_vector(IMAGE, row, 2), noisy_query_vector(TEXT, row, 1), noisy_query_vector(PRODUCT, row, 0.5)]


def search_one(shard: ShardVersion, query: ShardQuery) -> ShardHits:
    (hits,) = shard.search([query]).results
    assert not hits.error
    return hits


def scores_of(hits: ShardHits) -> dict[str, float]:
    return dict(zip(hits.ids, unpack(hits.scores, 1)[:, 0].tolist(), strict=True))


def cosines(vectors: Sequence[QueryVector]) -> F32:
    """Cosines (products, vectors) of every product with each query vector; 0 where it has no vector."""
    columns = np.zeros((COUNT, len(vectors)), dtype=np.float32)
    for column, vector in enumerate(vectors):
        rows = ROWS[vector.space]
        columns[rows, column] = VECTORS[vector.space][rows] @ unpack(vector.vector, DIMS[vector.space])[0]
    return columns


def test_exact_fusion_is_the_weighted_mean_of_all_cosines_of_all_products(shard: ShardVersion) -> None:
    vectors = query_vectors_in_all_spaces(7)
    means = cosines(vectors) @ np.array([2, 1, 0.5]) / 3.5
    hits = search_one(shard, ShardQuery(vectors=vectors, k=50, exact=True))
    best = np.argsort(-means)[:50]
    assert sorted(hits.ids) == sorted(f"p{row}" for row in best)
    assert np.allclose(unpack(hits.scores, 50)[0], means[best], atol=1e-6)


def test_the_nearest_in_each_space_contain_the_best_of_the_fusion(shard: ShardVersion) -> None:
    shared = 0
    for row in range(100, 160):
        query = ShardQuery(vectors=query_vectors_in_all_spaces(row), k=10)
        approximate = search_one(shard, query)
        query.exact = True
        shared += len(set(approximate.ids) & set(search_one(shard, query).ids))
    assert shared / 600 >= 0.95


def test_a_score_is_the_same_to_the_last_bit_however_its_product_was_found(shard: ShardVersion) -> None:
    query = ShardQuery(vectors=query_vectors_in_all_spaces(11), k=100)
    approximate = scores_of(search_one(shard, query))
    query.exact = True
    exact_scores = scores_of(search_one(shard, query))
    assert approximate.keys() & exact_scores.keys()
    assert all(approximate[product] == exact_scores[product] for product in approximate.keys() & exact_scores.keys())


def test_explained_cosines_equal_the_scores_of_each_space_alone(shard: ShardVersion) -> None:
    vectors = query_vectors_in_all_spaces(12)
    hits = search_one(shard, ShardQuery(vectors=vectors, k=20, explain=True))
    explained = unpack(hits.cosines, 3)
    assert explained.shape == (20, 3)
    for column, vector in enumerate(vectors):
        alone = scores_of(search_one(shard, ShardQuery(vectors=[vector], k=COUNT, exact=True)))
        assert explained[:, column].tolist() == [alone.get(product, 0.0) for product in hits.ids]
    assert np.allclose(explained @ np.array([2, 1, 0.5]) / 3.5, unpack(hits.scores, 20)[0], atol=1e-6)


def test_the_explained_cosine_of_a_single_vector_is_the_score(shard: ShardVersion) -> None:
    hits = search_one(shard, ShardQuery(vectors=[noisy_query_vector(TEXT, 3)], k=5, explain=True))
    assert hits.cosines == hits.scores
    assert not search_one(shard, ShardQuery(vectors=[noisy_query_vector(TEXT, 3)], k=5)).cosines
    assert not search_one(shard, ShardQuery(vectors=query_vectors_in_all_spaces(3), k=5)).cosines


def test_only_the_ratio_of_the_weights_matters(shard: ShardVersion) -> None:
    vectors = [noisy_query_vector(IMAGE, 8, 3e38), noisy_query_vector(TEXT, 8, 3e38)]
    halves = [noisy_query_vector(IMAGE, 8, 1e-40), noisy_query_vector(TEXT, 8, 1e-40)]
    hits = search_one(shard, ShardQuery(vectors=vectors, k=10))
    assert search_one(shard, ShardQuery(vectors=halves, k=10)) == hits
    assert np.isfinite(unpack(hits.scores, 10)).all()


def test_the_weight_of_a_single_vector_is_ignored(shard: ShardVersion) -> None:
    hits = [
        search_one(shard, ShardQuery(vectors=[noisy_query_vector(IMAGE, 8, weight)], k=10))
        for weight in (0, -1, np.nan, 1)
    ]
    assert hits[1:] == hits[:-1]


def test_a_product_without_some_vectors_is_found_by_the_others(shard: ShardVersion) -> None:
    """p15 has only a text vector."""
    hits = search_one(
        shard,
        ShardQuery(
            vectors=[noisy_query_vector(IMAGE, 2, 0.01), query_vector(TEXT, VECTORS[TEXT][15], 0.99)], k=1, explain=True
        ),
    )
    assert list(hits.ids) == ["p15"]
    assert unpack(hits.cosines, 2)[0] == pytest.approx([0, 1], abs=1e-6)
    assert unpack(hits.scores, 1)[0] == pytest.approx([0.99], abs=1e-6)


def test_equal_scores_are_ordered_by_rising_id(shard: ShardVersion) -> None:
    """All four have one text vector and lack an image vector."""
    vectors = [noisy_query_vector(IMAGE, 40, 1e-6), query_vector(TEXT, VECTORS[TEXT][40], 1)]
    expected = [f"p{row}" for row in sorted(EQUAL_PRODUCTS, key=str)]
    hits = search_one(shard, ShardQuery(vectors=vectors, k=4))
    assert list(hits.ids) == expected
    assert len(set(scores_of(hits).values())) == 1
    assert list(search_one(shard, ShardQuery(vectors=vectors, k=2)).ids) == expected[:2]


@pytest.mark.parametrize("exact", [False, True])
def test_only_what_passes_the_filter_is_found(shard: ShardVersion, exact: bool) -> None:
    condition = Filter(shop_in=["shop 1"], in_stock=True)
    hits = search_one(shard, ShardQuery(vectors=query_vectors_in_all_spaces(5), k=COUNT, filter=condition, exact=exact))
    rows = [row for row in range(COUNT) if row % 3 == 1 and row % 4]
    assert set(hits.ids) == {f"p{row}" for row in rows if any(row in ROWS[space] for space in DIMS)}
    few = search_one(shard, ShardQuery(vectors=query_vectors_in_all_spaces(5), k=7, filter=condition, exact=exact))
    assert list(few.ids) == list(hits.ids)[:7]


@pytest.mark.parametrize("exact", [False, True])
def test_a_search_for_more_than_exist_returns_each_product_once(shard: ShardVersion, exact: bool) -> None:
    hits = search_one(
        shard, ShardQuery(vectors=[noisy_query_vector(IMAGE, 5), noisy_query_vector(TEXT, 5)], k=MAX_K, exact=exact)
    )
    assert len(hits.ids) == len(set(hits.ids)) == COUNT - COUNT // 35 - 1
    assert not search_one(shard, ShardQuery(vectors=query_vectors_in_all_spaces(5), k=0, exact=exact)).ids


def test_a_result_does_not_depend_on_the_other_queries_of_the_batch(shard: ShardVersion) -> None:
    queries = [ShardQuery(vectors=query_vectors_in_all_spaces(row), k=10, explain=bool(row % 2)) for row in range(20)]
    queries += [
        ShardQuery(vectors=[noisy_query_vector(IMAGE, row)], k=40) for row in range(20)
    ]  # As deep as the candidates are.
    queries += [
        ShardQuery(vectors=[noisy_query_vector(TEXT, row), noisy_query_vector(IMAGE, row)], k=10, exact=row % 5 == 0)
        for row in range(20)
    ]
    together = list(shard.search(queries).results)
    assert together == [search_one(shard, query) for query in queries]
    assert list(shard.search(queries[::-1]).results) == together[::-1]


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([], "no vector"),
        (
            [noisy_query_vector(IMAGE, 0), noisy_query_vector(TEXT, 0), noisy_query_vector(IMAGE, 1)],
            "two vectors of space 1",
        ),
        (
            [noisy_query_vector(IMAGE, 0), noisy_query_vector(TEXT, 0, 0)],
            "the weight of space 2 is 0.0, expected a finite number above 0",
        ),
        ([noisy_query_vector(IMAGE, 0, -1), noisy_query_vector(TEXT, 0)], "the weight of space 1 is -1.0"),
        ([noisy_query_vector(IMAGE, 0, np.nan), noisy_query_vector(TEXT, 0)], "the weight of space 1 is nan"),
        ([noisy_query_vector(IMAGE, 0), noisy_query_vector(TEXT, 0, np.inf)], "the weight of space 2 is inf"),
        ([noisy_query_vector(IMAGE, 0), query_vector(9, VECTORS[TEXT][0], 1)], "this shard has no space 9"),
        (
            [noisy_query_vector(IMAGE, 0), query_vector(TEXT, VECTORS[IMAGE][0], 1)],
            "the vector has 256 bytes, expected 128 (32 dimensions)",
        ),
        (
            [noisy_query_vector(IMAGE, 0), query_vector(TEXT, pack(2 * VECTORS[TEXT][0]), 1)],
            "the vector is not of unit norm",
        ),
    ],
)
def test_an_invalid_query_gets_an_error_of_its_own(
    shard: ShardVersion, vectors: list[QueryVector], reason: str
) -> None:
    good = ShardQuery(vectors=query_vectors_in_all_spaces(1), k=3)
    first, wrong, last = shard.search([good, ShardQuery(vectors=vectors, k=3), good]).results
    assert reason in wrong.error
    assert not wrong.ids
    assert first == last == search_one(shard, good)


def test_a_shard_without_vectors_returns_no_hits(tmp_path: Path) -> None:
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(unit_vectors(1, 8)), TEXT: vectors_of(unit_vectors(1, 4))}
    build(tmp_path, catalogue(1), spaces, shards=2)
    query = ShardQuery(
        vectors=[query_vector(IMAGE, unit_vectors(1, 8), 1), query_vector(TEXT, unit_vectors(1, 4), 1)], k=3
    )
    ids = []
    for number in range(2):
        for exact in (False, True):
            query.exact = exact
            ids.append(list(search_one(open_shard(tmp_path, number), query).ids))
    assert sorted(ids) == [[], [], ["p0"], ["p0"]]


def test_a_space_without_vectors_in_the_shard_adds_nothing(tmp_path: Path) -> None:
    spaces: dict[int, SpaceVectors] = {
        IMAGE: vectors_of(unit_vectors(3, 8)),
        TEXT: vectors_of(np.empty((0, 4), np.float32)),
    }
    build(tmp_path, catalogue(3), spaces, shards=1)
    vectors = [query_vector(IMAGE, unit_vectors(3, 8)[1], 1), query_vector(TEXT, unit_vectors(1, 4), 1)]
    hits = search_one(open_shard(tmp_path, 0), ShardQuery(vectors=vectors, k=3, explain=True))
    assert hits.ids[0] == "p1"
    assert unpack(hits.cosines, 2)[0] == pytest.approx([1, 0], abs=1e-6)
