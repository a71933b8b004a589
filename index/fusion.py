"""Late fusion: one order of products by their cosines in several spaces. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.vectors import F32


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Finite weights above 0, divided by their sum."""
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def depth(k: int) -> int:
    """How many of the nearest in each space are candidates for the k best of all."""
    return 4 * k


def fused(cosines: F32, shares: Sequence[float]) -> F32:
    """Weighted means (c,) of cosines (s, c), by the shares (s,) of the spaces.

    Product by product and not by a matrix product, whose roundings depend on how many products there are.
    """
    total = np.zeros(cosines.shape[1])
    for share, of_space in zip(shares, cosines, strict=True):
        total += share * of_space.astype(np.float64)
    mean: F32 = total.astype(np.float32)
    return mean
