"""True nearest neighbours, by brute force, and recall against them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32, I64

K = 10
_CHUNK = 1 << 13


def nearest(vectors: npt.NDArray[Any], queries: F32, k: int = K) -> I64:
    """(n, k) rows by falling inner product, of all vectors."""
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        part = vectors[start : start + _CHUNK].astype(np.float32)
        rows = np.hstack((rows, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))))
        scores = np.hstack((scores, queries @ part.T))
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
    return np.take_along_axis(rows, np.argsort(-scores, axis=1), 1)


def recall(found: Sequence[Sequence[int]] | Sequence[I64] | I64, truth: I64) -> float:
    """The mean share of a query's true neighbours, (n, k) rows, that were found; for the queries that were asked."""
    return float(np.mean([len(np.intersect1d(a, b)) / truth.shape[1] for a, b in zip(found, truth, strict=False)]))
