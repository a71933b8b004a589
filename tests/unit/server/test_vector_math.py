"""Unit vectors from the bytes of a request, and weighted sums of them."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.errors import InvalidRequest
from lookalike.vectors import pack
from server.vector_math import combine, unit_vector


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4),
        np.array([1, np.nan, 0, 0]),
        np.array([1, np.inf, 0, 0]),
        np.array([-np.inf, np.inf, 0, 0]),
        np.ones(3),
        np.ones(8),
    ],
    ids=["zero", "NaN", "infinite", "both infinities", "too short", "too long"],
)
def test_a_vector_that_cannot_be_scaled_to_unit_length_or_is_of_another_dimension_is_refused(
    vector: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    with pytest.raises(InvalidRequest, match="v:"):
        unit_vector("v", pack(vector.astype(np.float32)), 4)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-18, 1e18, 3e38], ids=str)
def test_a_vector_of_any_length_becomes_a_unit_vector(scale: float) -> None:
    unit = unit_vector("v", pack(np.array([0.6, 0.8], dtype=np.float32) * np.float32(scale)), 2)
    np.testing.assert_allclose(unit, [0.6, 0.8], rtol=1e-5)


def test_examples_are_summed_by_weight_and_normalised() -> None:
    x, y = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(combine([x, y], [3, 4]), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(combine([x, y], [3e38, 4e38 / 2]), np.array([3, 2]) / 13**0.5, rtol=1e-6)
    np.testing.assert_allclose(combine([x], [-1]), [-1, 0])
    with pytest.raises(InvalidRequest, match="cancel"):
        combine([x, x], [1, -1])
