"""Exact inner products and the best of them. Pure: arrays in, arrays out; vectors may be a memory mapping.

Every score that leaves a shard comes from one kernel over one pair of vectors, so it does not depend on what else was
asked in the same batch, nor on how the product was found: equal vectors have equal scores, and ties are real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import faiss
import numpy as np

from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64

# Scores held at a time by an exact search: 256 KiB, so that they stay in the cache.
CHUNK = 1 << 16
# Vectors widened at a time: 1 MiB of 1024 dimensions.
_WIDENED = 1 << 8


class Neighbours(NamedTuple):
    """Of one query, by falling score, equal scores by rising row."""

    rows: I64
    scores: F32


def scores_of(queries: F32, vectors: StoredVectors, rows: I64) -> F32:
    """Inner products (n, c) of queries (n, dim) with vectors[rows], rows (n, c); −∞ where a row is −1.

    Reads the rows where they lie: 6 µs for 40 rows of 1024 dimensions, a third of what gathering them first costs.
    """
    if vectors.dtype != np.float32:
        return _scores_of_halves(queries, vectors, rows)
    scores = np.empty(rows.shape, dtype=np.float32)
    queries, rows = np.ascontiguousarray(queries), np.ascontiguousarray(rows)
    pointer = faiss.swig_ptr
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # the stubs faiss ships are incomplete
        pointer(scores), pointer(queries), pointer(vectors), pointer(rows), vectors.shape[1], *rows.shape
    )
    return scores


def _scores_of_halves(queries: F32, vectors: StoredVectors, rows: I64) -> F32:
    """Of float16: gathered and widened a few at a time, then compared as all others are."""
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    for query, of_query, into in zip(queries, rows, scores, strict=True):
        known = np.flatnonzero(of_query >= 0)
        for start in range(0, len(known), _WIDENED):
            part = known[start : start + _WIDENED]
            wide = vectors[of_query[part]].astype(np.float32)
            into[part] = scores_of(query[None, :], wide, np.arange(len(part))[None, :])[0]
    return scores


def best(rows: I64, scores: F32, k: int) -> Neighbours:
    """The k best, all ties at the edge considered."""
    if len(rows) > k:
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[scores >= edge], scores[scores >= edge]
    order = np.lexsort((rows, -scores))[:k]
    return Neighbours(rows[order], scores[order])


def exact(query: F32, vectors: StoredVectors, k: int, among: I64 | None = None) -> Neighbours:
    """The k nearest of all vectors (m, dim), or of those at the rising rows `among`, to the query (dim,)."""
    return best_of(_chunks(len(vectors), among), k, lambda rows: scores_of(query[None, :], vectors, rows[None, :])[0])


def best_of(chunks: Iterable[I64], k: int, score: Callable[[I64], F32]) -> Neighbours:
    """The k best of the rows in all chunks; `score` says how good each row is."""
    found = Neighbours(np.empty(0, np.int64), np.empty(0, np.float32))
    if not k:
        return found
    for rows in chunks:
        found = best(np.concatenate((found.rows, rows)), np.concatenate((found.scores, score(rows))), k)
    return found


def chunks_of(rows: I64) -> Iterator[I64]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _chunks(count: int, among: I64 | None) -> Iterator[I64]:
    if among is not None:
        return chunks_of(among)
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
