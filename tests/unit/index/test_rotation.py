"""Rotation of queries and vectors."""

from __future__ import annotations

import numpy as np
import pytest

from index.backends import rotation
from tests.unit.index.samples import clustered, unit_vectors

DIM, ROTATED_DIM = 192, 64


@pytest.fixture(scope="module")
def matrix() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    trained = rotation.train_pca(clustered(2000, DIM), ROTATED_DIM, 0)
    rotation.round_rotation(trained)
    return trained


def test_a_rotated_query_is_the_same_in_a_batch_of_any_size(matrix: np.ndarray) -> None:
    """To the last bit, also where a query lies along a row of the matrix, so that sums are largest."""
    queries = np.concatenate((clustered(16, DIM, seed=1), matrix[:16] / np.linalg.norm(matrix[:16], axis=1)[:, None]))
    together = rotation.rotate_queries(queries, matrix)
    for size in (1, 2, 3, 5, 8, 16):
        parts = [rotation.rotate_queries(queries[start : start + size], matrix) for start in range(0, 32, size)]
        assert (np.concatenate(parts) == together).all()


def test_rounding_moves_a_rotated_query_by_less_than_half_a_percent_of_its_length(matrix: np.ndarray) -> None:
    exact = rotation.train_pca(clustered(2000, DIM), ROTATED_DIM, 0).astype(np.float64)
    queries = clustered(100, DIM, seed=1)
    moved = np.linalg.norm(rotation.rotate_queries(queries, matrix) - queries @ exact.T, axis=1)
    assert 0 < moved.max() < 0.005


def test_rounding_a_rotation_again_changes_nothing(matrix: np.ndarray) -> None:
    again = matrix.copy()
    rotation.round_rotation(again)
    assert (again == matrix).all()


def test_vectors_are_scaled_to_unit_norm_after_a_rotation_only(matrix: np.ndarray) -> None:
    vectors = unit_vectors(100, DIM)
    assert np.allclose(np.linalg.norm(rotation.rotate_to_unit(vectors, matrix), axis=1), 1, atol=1e-6)
    assert rotation.rotate_to_unit(vectors, None) is vectors
