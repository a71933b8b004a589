"""Calibration: recall is measured, and delivered, for queries that the index does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from index.backends import factory
from index.backends.recipe import resolve_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import calibrate, draw_queries
from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64
from tests.unit.index.samples import build_space, clustered, unit_vectors

DIM = 64


class RecordingIndex:
    """Exact search as a `VectorIndex` that records what was hidden during each search."""

    refine_factors: tuple[int, ...] = (1,)

    def __init__(self, vectors: F32) -> None:
        self.documents, self.dim = vectors.shape
        self.hidden: frozenset[int] = frozenset()
        self.hidden_at_searches: list[frozenset[int]] = []
        self.queries: list[F32] = []
        self._vectors = vectors

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        self.hidden_at_searches.append(self.hidden)
        self.queries.append(queries)
        scores = queries @ self._vectors.T
        scores[:, list(self.hidden)] = -np.inf
        best: I64 = np.argsort(-scores, axis=1)[:, :count]
        return best

    @contextmanager
    def without(self, positions: I64, vectors: StoredVectors) -> Iterator[tuple[VectorIndex, StoredVectors]]:
        self.hidden = frozenset(positions.tolist())
        yield self, vectors
        self.hidden = frozenset()

    def search_parameters(self, depth: int) -> Iterable[int]:
        return (1,)

    def cost(self, search_parameter: int) -> float:
        return 1.0

    def with_vectors(self, vectors: StoredVectors) -> VectorIndex:
        raise NotImplementedError

    def ram_bytes(self) -> int:
        return 0

    def write(self, path: Path) -> None:
        raise NotImplementedError


def test_the_queries_of_a_calibration_are_hidden_while_they_are_searched_for() -> None:
    vectors = clustered(2000, DIM)
    index, positions = RecordingIndex(vectors), draw_queries(2000, 0)
    points = calibrate(index, vectors, positions)
    assert [point.recall for point in points] == [1.0] * len(points)  # True neighbours are those of strangers, too.
    assert set(index.hidden_at_searches) == {frozenset(positions.tolist())}
    assert not index.hidden
    searched = {query.tobytes() for queries in index.queries for query in queries}
    assert searched <= {vectors[position].tobytes() for position in positions}


@pytest.mark.parametrize(
    "recipe", ["IVF,PQ4fs", "OPQ24_48,IVF,PQ24x4fs", "PCAR48,IVF,SQ4", "IVF,RaBitQ", "HNSW16,SQ8", "PCAR48,HNSW16,SQ8"]
)
def test_vectors_that_are_held_out_do_not_influence_the_training(recipe: str) -> None:
    vectors, others = clustered(3000, DIM), clustered(1000, DIM, seed=3)
    held_out, resolved = draw_queries(3000, 0), resolve_recipe(recipe, 3000, DIM, 0)
    assert resolved is not None
    changed = vectors.copy()
    changed[held_out] = np.eye(DIM, dtype=np.float32)[0]
    first, second = (
        factory.train_index(resolved, each, 0, 1, held_out=held_out).with_vectors(others) for each in (vectors, changed)
    )
    assert (first.find_candidates(others[:32], 40, 4) == second.find_candidates(others[:32], 40, 4)).all()
    trained_on_all = factory.train_index(resolved, changed, 0, 1).with_vectors(others)
    assert (first.find_candidates(others[:32], 40, 4) != trained_on_all.find_candidates(others[:32], 40, 4)).any()


@pytest.mark.parametrize("recipe", ["IVF,SQ8", "IVF,PQ4fs", "IVF,RaBitQ", "HNSW16,SQ8"])
def test_the_promised_recall_is_delivered_for_queries_that_the_index_has_never_seen(recipe: str) -> None:
    """The vectors are so hard that the target binds: a graph that held its queries would deliver .80."""
    vectors = unit_vectors(9000, 24)
    space, strangers = build_space(vectors[:8000], recipe), vectors[8000:]
    assert space.entry.operating_points
    stated = space.entry.operating_points[0]
    recalls = [
        len(np.intersect1d(true.rows, found.rows)) / 10
        for true, found in zip(space.search(strangers, 10, exact=True), space.search(strangers, 10), strict=True)
    ]
    recall, standard_error = float(np.mean(recalls)), float(np.std(recalls)) / len(recalls) ** 0.5
    assert recall >= 0.95 - 3 * standard_error
    assert recall >= stated.recall - 3 * np.hypot(standard_error, stated.standard_error)
