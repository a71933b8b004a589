"""Random vectors: as hard to search as the features of a network."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from benchmarks.dataset import CHUNK, DIM, CnnLike, cnn_like
from lookalike.vectors import F32

COUNT = 4_000


@pytest.fixture(scope="module")
def drawn() -> tuple[F32, F32]:
    return cnn_like(COUNT, 100)


def test_a_longer_sequence_begins_with_the_shorter_one_of_the_same_seed() -> None:
    pieces = list(CnnLike().vectors(CHUNK + 10))
    assert [len(piece) for piece in pieces] == [CHUNK, 10]
    assert np.array_equal(np.concatenate(pieces)[:5], next(CnnLike().vectors(5)))


def test_another_seed_gives_other_vectors_and_queries_are_not_among_the_vectors(drawn: tuple[F32, F32]) -> None:
    vectors, queries = drawn
    assert not np.array_equal(next(CnnLike(1).vectors(5)), vectors[:5])
    assert float((queries @ vectors.T).max()) < 0.999


def test_vectors_have_unit_norm_and_no_negative_component(drawn: tuple[F32, F32]) -> None:
    vectors, _ = drawn
    assert vectors.shape == (COUNT, DIM)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.min() == 0


def test_the_nearest_inverted_list_holds_only_some_of_the_neighbours_and_sixteen_hold_nearly_all(
    drawn: tuple[F32, F32],
) -> None:
    """With features of photos the nearest of 64 lists holds 60-70 % of the ten nearest."""
    vectors, queries = drawn
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    index: Any = faiss.index_factory(DIM, "IVF64,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    recalls = []
    for index.nprobe in (1, 16):
        found = index.search(queries, 10)[1]
        recalls.append(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, truth, strict=True)]))
    assert 0.5 < recalls[0] < 0.8
    assert recalls[1] > 0.98
