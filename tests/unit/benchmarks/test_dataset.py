"""Drawn vectors: as those of a network in what makes a search hard."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from benchmarks.dataset import DIM, PIECE, CnnLike, cnn_like
from lookalike.vectors import F32

COUNT = 4_000


@pytest.fixture(scope="module")
def drawn() -> tuple[F32, F32]:
    return cnn_like(COUNT, 100)


def test_a_longer_sequence_begins_with_the_shorter() -> None:
    pieces = list(CnnLike().vectors(PIECE + 10))
    assert [len(piece) for piece in pieces] == [PIECE, 10]
    assert np.array_equal(np.concatenate(pieces)[:5], next(CnnLike().vectors(5)))


def test_another_seed_gives_other_vectors_and_queries_are_none_of_them(drawn: tuple[F32, F32]) -> None:
    vectors, queries = drawn
    assert not np.array_equal(next(CnnLike(1).vectors(5)), vectors[:5])
    assert float((queries @ vectors.T).max()) < 0.999


def test_they_are_of_unit_norm_and_not_negative_as_what_comes_after_a_relu(drawn: tuple[F32, F32]) -> None:
    vectors, _ = drawn
    assert vectors.shape == (COUNT, DIM)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.min() == 0


def test_one_inverted_list_does_not_hold_the_neighbours_and_sixteen_do(drawn: tuple[F32, F32]) -> None:
    """Of photos' features the nearest list of 64 holds 60-70 % of the ten nearest."""
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
