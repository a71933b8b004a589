"""Scale the vectors of a request to unit length and combine them by weight. Pure: arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lookalike.errors import InvalidRequest
from lookalike.vectors import F32, normalised


def unit_vector(field: str, data: bytes, dim: int) -> F32:
    """(dim,) float32 of unit norm. Raises InvalidRequest for a wrong dimension, NaN, infinity or the zero vector."""
    if len(data) != 4 * dim:
        raise InvalidRequest(field, f"has {len(data) // 4} dimensions, the space has {dim}")
    vector: F32 = np.frombuffer(data, dtype="<f4")
    square = _square(vector)
    if 1e-20 < square < 1e30:  # Far from where float32 loses digits, and never NaN: the only branch taken in practice.
        unit: F32 = vector / np.float32(math.sqrt(square))
        return unit
    if not np.isfinite(vector).all():
        raise InvalidRequest(field, "has a component that is NaN or infinite")
    if not vector.any():
        raise InvalidRequest(field, "is the zero vector, which is similar to nothing")
    unit = normalised(vector[None, :])[0]
    return unit


@np.errstate(over="ignore", invalid="ignore")  # As a decorator in half the time that a context takes.
def _square(vector: F32) -> float:
    return float(vector.dot(vector))


def combine(vectors: Sequence[F32], weights: Sequence[float]) -> F32:
    """The unit vector (dim,) of the weighted sum. Raises InvalidRequest when the examples cancel each other out."""
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    # Weights only count relative to each other; scaled, the largest float32 weights cannot overflow.
    scaled = np.asarray(weights, dtype=np.float64) / max(abs(weight) for weight in weights)
    total = scaled @ np.stack(vectors).astype(np.float64)
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise InvalidRequest("examples", "cancel each other out: their weighted sum is the zero vector")
    return (total / norm).astype(np.float32)
