"""Exact inner products of float16 vectors."""

from __future__ import annotations

import numpy as np
import pytest

from index.search.scores import inner_products
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
