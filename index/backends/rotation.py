"""Rotations: matrices that map vectors to fewer dimensions and keep most of their inner products. Pure.

A principal component analysis finds the directions that matter; a random rotation after it spreads their variance
evenly over the dimensions, as compression with equal steps or single bits needs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from index.backends import faiss_support
from index.backends.faiss_support import faiss
from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64, normalised

_TRAINING_VECTORS = 1 << 13
# Adding and subtracting 1.5 · 2^n rounds a small float32 to multiples of 2^(n - 23): here of 2^-11 and 2^-12.
_QUERY_ROUNDING = np.float32(1.5 * (1 << 12))
_MATRIX_ROUNDING = np.float32(1.5 * (1 << 11))


def sample_for_training(vectors: StoredVectors, random: np.random.Generator, held_out: I64 = faiss_support.NONE) -> F32:
    return faiss_support.sample_vectors(vectors, _TRAINING_VECTORS, random, held_out)


def principal_directions(points: F32, rotated_dim: int) -> F32:
    """(rotated_dim, dim) by falling variance. Vectors are not centred: inner products must be kept."""
    moments = (points.T @ points).astype(np.float64)
    return np.ascontiguousarray(np.linalg.eigh(moments)[1][:, : -rotated_dim - 1 : -1].T.astype(np.float32))


def train_pca(points: F32, rotated_dim: int, seed: int) -> F32:
    """(rotated_dim, dim): a projection on the principal directions, then a random rotation."""
    spread = faiss.RandomRotationMatrix(rotated_dim, rotated_dim)
    spread.init(seed)
    return matrix_of(spread) @ principal_directions(points, rotated_dim)


def matrix_of(transform: Any) -> F32:
    """A copy of the matrix of a faiss linear transform."""
    matrix: F32 = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    return matrix


def with_rotation(rotation: F32 | None, index: Any) -> Any:
    """A faiss index of unrotated vectors around one of rotated vectors."""
    if rotation is None:
        return index
    linear = faiss.LinearTransform(rotation.shape[1], rotation.shape[0], False)
    faiss.copy_array_to_vector(rotation.ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, index)


def rotation_of(index: Any) -> F32 | None:
    """A view of the rotation matrix inside a faiss index, rounded for `rotate_queries`; None: there is none."""
    if not isinstance(index, faiss.IndexPreTransform):
        return None
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    matrix: F32 = faiss.rev_swig_ptr(linear.A.data(), linear.A.size()).reshape(linear.d_out, linear.d_in)
    round_rotation(matrix)
    return matrix


def rotated_index(index: Any) -> Any:
    """The faiss index of rotated vectors inside an index; the index itself if it does not rotate them."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def rotate(vectors: F32, rotation: F32 | None) -> F32:
    """Rotate many vectors (n, dim) at a time, by matrix product."""
    return vectors if rotation is None else vectors @ rotation.T


def rotate_to_unit(vectors: F32, rotation: F32 | None) -> F32:
    """The same, scaled to unit norm after a rotation, for graphs: among projections of any length, Euclidean distance
    favours short ones, and by inner product a graph finds its way badly.

    Of the true 10 nearest, SymphonyQG found 96 % among 20 candidates of 256 dimensions so, unscaled 89 % by Euclidean
    distance and 92 % by inner product (ef 80; 100,000 vectors, `noisy` of `benchmarks/dataset.py`).
    """
    return vectors if rotation is None else normalised(vectors @ rotation.T)


def rotate_queries(queries: F32, rotation: F32 | None) -> F32:
    """Rotate unit vectors (n, dim) with a rounded rotation, so that no result depends on the rest of the batch.

    A matrix product sums in an order that depends on the size of the batch. Here every order gives the same sum: all
    products are multiples of 2^-23, and a sum of some of them is below 2, so float32 holds it exactly. Rounding moves a
    rotated vector by 0.3 % of its length.
    """
    if rotation is None:
        return queries
    rounded = queries + _QUERY_ROUNDING
    rounded -= _QUERY_ROUNDING
    # In this order 16 queries take a quarter of the time of 16 single ones: 4 µs each, from 1024 to 256 dimensions.
    return np.ascontiguousarray((rotation @ rounded.T).T)


def round_rotation(rotation: F32) -> None:
    """Round a matrix with rows of unit length in place, for `rotate_queries`; again, it changes nothing."""
    rotation += _MATRIX_ROUNDING
    rotation -= _MATRIX_ROUNDING
