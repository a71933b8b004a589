"""How good neighbours are, by labels: precision@k and calibration. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
_BLOCK = 512  # Queries compared at a time: 40 MB of scores against 20,000 vectors.


def neighbours(vectors: F32, k: int) -> I64:
    """(n, min(k, n - 1)) rows of the nearest others by inner product, of (n, dim) unit vectors; nearest first.

    Equal scores by rising row. O(n²): for samples of up to some ten thousand.
    """
    k = min(k, len(vectors) - 1)
    found = np.empty((len(vectors), max(k, 0)), dtype=np.int64)
    for start in range(0, len(vectors) if k > 0 else 0, _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, rows + start] = -np.inf
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found[start : start + _BLOCK] = np.take_along_axis(best, order, axis=1)
    return found


def precisions(found: I64, labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """(n,) share of each query's neighbours (n, k) that have its own label; 0 where there are no neighbours."""
    numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)[1]
    if not found.size:
        return np.zeros(len(found))
    return np.asarray((numbers[found] == numbers[:, None]).mean(axis=1))


def precision_at_10(vectors: F32, labels: Sequence[str]) -> float:
    """Leave-one-out precision@10 of unit vectors, over those whose label is there at least twice.

    A label of one product cannot be found again; with fewer than ten others of it, precision 1 cannot be reached:
    that is the same for every space that is compared.
    """
    names, counts = np.unique(np.asarray(labels, dtype=object).astype(str), return_counts=True)
    several = set(names[counts > 1])
    counted = np.fromiter((label in several for label in labels), bool, len(labels))
    return float(precisions(neighbours(vectors, 10), labels)[counted].mean()) if counted.any() else 0.0


def voted(queries: F32, voters: F32, labels: Sequence[str], k: int = 10) -> tuple[list[str], F64]:
    """The label that most of the k nearest voters have, for each query, and the share that have it (n,).

    queries (n, dim) and voters (m, dim), m > 0, of unit norm. Of labels with as many votes the one wins whose voters
    are nearer, by the sum of their inner products; then the first by name.
    """
    names, numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    k = min(k, len(voters))
    winners, shares = np.empty(len(queries), dtype=np.int64), np.empty(len(queries))
    for row in range(0, len(queries), _BLOCK):
        scores = queries[row : row + _BLOCK] @ voters.T
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        for at, voting in enumerate(nearest, row):
            ballots = np.bincount(numbers[voting], minlength=len(names))
            nearness = np.bincount(numbers[voting], scores[at - row, voting], len(names))
            winners[at] = np.lexsort((-nearness, -ballots))[0]
            shares[at] = ballots[winners[at]] / k
    return [str(names[winner]) for winner in winners], shares


class Bin(NamedTuple):
    """Answers of about one confidence."""

    confidence: float  # Mean.
    accuracy: float  # The share of right ones.
    answers: int


def reliability(confidences: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = 15) -> list[Bin]:
    """Answers in bins of equal width by confidence, 0..1; empty bins are left out."""
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)
    return [
        Bin(float(confidences[bin_of == b].mean()), float(right[bin_of == b].mean()), int((bin_of == b).sum()))
        for b in np.unique(bin_of)
    ]


def expected_calibration_error(
    confidences: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """ECE (Guo et al. 2017): mean distance between confidence and accuracy over equal-width bins, by their sizes."""
    told = reliability(confidences, right, bins)
    return sum(abs(each.confidence - each.accuracy) * each.answers for each in told) / max(len(confidences), 1)
