"""Late fusion: rank products by their weighted cosines in several spaces. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.vectors import F32


def normalise_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Divide finite weights above 0 by their sum; those whose sum is 1 already stay as they are, to the last bit."""
    total = sum(weights)
    if abs(total - 1) < 1e-12:
        return tuple(weights)
    return tuple(weight / total for weight in weights)


def candidates_per_space(k: int) -> int:
    """How many nearest neighbours of each space are candidates for the k fused hits.

    Measured recall of the k best of an exact fusion of image and text (8,609 fashion products, MobileNet and SCDV,
    weights 1:1 and 4:1), for k = 11, 20, 50, 101, 300: at least 0.99 where photo and title are of one product, at least
    0.98 where they are of two products of one category, 0.87-0.97 where they are of any two. With only k candidates it
    is 0.47-0.75 for k = 10.
    """
    return 100 + 2 * max(0, k - 20)


def fuse(cosines: F32, weights: Sequence[float]) -> F32:
    """Weighted means (c,) of cosines (s, c); weights (s,) of the spaces sum to 1.

    Added space by space: the rounding of a matrix product would depend on how many products there are.
    """
    total = np.zeros(cosines.shape[1])
    for weight, space_cosines in zip(weights, cosines, strict=True):
        total += weight * space_cosines.astype(np.float64)
    mean: F32 = total.astype(np.float32)
    return mean
