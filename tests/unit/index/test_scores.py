"""Exact inner products, of float16 vectors too, and the best of candidates."""

from __future__ import annotations

import numpy as np
import pytest

from index.search.scores import best_candidates, exact_candidates, exact_search, inner_products, pass_only
from tests.unit.index.samples import unit_vectors


def test_every_finite_half_is_scored_as_the_float32_of_the_same_value() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    vectors = halves[np.isfinite(halves)].reshape(-1, 64)
    rows = np.arange(len(vectors))[None, :]
    for column in range(64):
        query = np.zeros((1, 64), dtype=np.float32)
        query[0, column] = 1
        expected = vectors[:, column].astype(np.float32)
        assert (inner_products(query, vectors, rows)[0] == expected).all()


@pytest.mark.parametrize(("queries", "candidates"), [(1, 1), (1, 700), (3, 100), (16, 40), (40, 256), (2, 0), (0, 5)])
def test_a_score_of_halves_depends_neither_on_the_batch_nor_on_the_other_candidates(
    queries: int, candidates: int
) -> None:
    vectors = unit_vectors(300, 48).astype(np.float16)
    query_vectors = unit_vectors(queries, 48, seed=1) if queries else np.empty((0, 48), np.float32)
    rows = np.random.default_rng(0).integers(-1, 300, (queries, candidates))
    scores = inner_products(query_vectors, vectors, rows)
    assert scores.shape == rows.shape
    for query, query_rows, query_scores in zip(query_vectors, rows, scores, strict=True):
        for row, score in zip(query_rows.tolist(), query_scores.tolist(), strict=True):
            alone = inner_products(query[None, :], vectors[row : row + 1].astype(np.float32), np.zeros((1, 1), int))
            assert score == (-np.inf if row < 0 else alone[0, 0])


@pytest.mark.parametrize("rescore", ["float32", "float16"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
def test_the_best_by_a_product_of_matrices_are_those_that_each_query_finds_alone(rescore: str, share: float) -> None:
    vectors = unit_vectors(500, 48).astype(rescore)
    vectors[100:140] = vectors[100]  # Forty equal scores.
    queries = np.concatenate((unit_vectors(15, 48, seed=1), vectors[100:101].astype(np.float32)))
    mask = np.random.default_rng(2).random(500) < share
    for k in (1, 5, 10, int(mask.sum())):
        candidates = exact_candidates(queries, vectors, k, mask)
        found = best_candidates(queries, vectors, candidates, k)
        for query, (rows, scores) in zip(queries, found, strict=True):
            alone = exact_search(query, vectors, k, np.flatnonzero(mask))
            assert (rows == alone.rows).all()
            assert (scores == alone.scores).all()


def test_a_product_of_matrices_leaves_few_rows_to_be_scored() -> None:
    vectors = unit_vectors(2000, 48)
    assert exact_candidates(unit_vectors(16, 48, seed=1), vectors, 10).shape[1] < 12


def test_of_candidates_only_those_that_pass_are_left_and_minus_one_is_none() -> None:
    candidates = np.array([[7, 3, 5, 1], [2, -1, 4, -1]])
    passes = np.array([[True, False, True, True], [False, False, True, False]])
    assert pass_only(candidates, passes).tolist() == [[1, 5, 7], [-1, -1, 4]]
    vectors = unit_vectors(8, 48)
    first, second = best_candidates(vectors[5:7], vectors, pass_only(candidates, passes), 2)
    assert first.rows[0] == 5
    assert (len(first.rows), second.rows.tolist()) == (2, [4])
