"""Exact inner products and exact top-k search. Pure: arrays in, arrays out; vectors may be a memory mapping.

Every score that leaves a shard comes from one kernel over one pair of vectors. So it depends neither on the other
queries of the batch nor on how the product was found: equal vectors have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import faiss
import numpy as np

from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64

# Rows scored at a time by an exact search: 256 KiB of scores, which stay in the CPU cache.
CHUNK = 1 << 16
# float16 vectors converted to float32 at a time: 1 MiB at 1024 dimensions.
_FLOAT16_CHUNK = 1 << 8


class Neighbours(NamedTuple):
    """Results of one query, by falling score, equal scores by rising row."""

    rows: I64
    scores: F32


def inner_products(queries: F32, vectors: StoredVectors, rows: I64) -> F32:
    """Inner products (n, c) of queries (n, dim) with vectors[rows], rows (n, c); −∞ where a row is −1.

    Reads the rows in place: 6 µs for 40 rows of 1024 dimensions, a third of the time of gathering them first.
    """
    if vectors.dtype != np.float32:
        return _inner_products_float16(queries, vectors, rows)
    scores = np.empty(rows.shape, dtype=np.float32)
    queries, rows = np.ascontiguousarray(queries), np.ascontiguousarray(rows)
    pointer = faiss.swig_ptr
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # the stubs faiss ships are incomplete
        pointer(scores), pointer(queries), pointer(vectors), pointer(rows), vectors.shape[1], *rows.shape
    )
    return scores


def _inner_products_float16(queries: F32, vectors: StoredVectors, rows: I64) -> F32:
    """The same for float16 vectors: gathered and converted a few at a time, then scored by the same kernel."""
    scores = np.empty(rows.shape, dtype=np.float32)
    few_rows = max(1, min(rows.shape[1], _FLOAT16_CHUNK))
    few_queries = _FLOAT16_CHUNK // few_rows
    for first in range(0, len(queries), few_queries):
        for start in range(0, rows.shape[1], few_rows):
            part = rows[first : first + few_queries, start : start + few_rows]
            converted = _as_float32(vectors[part.ravel()])
            scores[first : first + few_queries, start : start + few_rows] = inner_products(
                queries[first : first + few_queries], converted, np.arange(part.size).reshape(part.shape)
            )
    scores[rows < 0] = -np.inf
    return scores


def _as_float32(halves: StoredVectors) -> F32:
    """Exactly `halves.astype(np.float32)` for finite numbers, in a third of the time: sign, exponent and mantissa move
    to their places in a float32, and a multiplication corrects the exponent's bias (15 to 127)."""
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)
    converted = bits.view(np.float32)
    converted *= np.float32(2.0**112)
    return converted


def top_k(rows: I64, scores: F32, k: int) -> Neighbours:
    """The k best rows; of those tied at the k-th score, the lowest."""
    if len(rows) > k:
        kth_score = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[scores >= kth_score], scores[scores >= kth_score]
    order = np.lexsort((rows, -scores))[:k]
    return Neighbours(rows[order], scores[order])


def exact_search(query: F32, vectors: StoredVectors, k: int, among: I64 | None = None) -> Neighbours:
    """The k nearest to the query (dim,) of all vectors (m, dim), or only of the rows `among`, which rise."""
    return top_k_of_chunks(
        _chunks(len(vectors), among), k, lambda rows: inner_products(query[None, :], vectors, rows[None, :])[0]
    )


def top_k_of_chunks(chunks: Iterable[I64], k: int, score: Callable[[I64], F32]) -> Neighbours:
    """The k best of the rows in all chunks; `score` gives the scores of a chunk's rows."""
    best = Neighbours(np.empty(0, np.int64), np.empty(0, np.float32))
    if not k:
        return best
    for rows in chunks:
        best = top_k(np.concatenate((best.rows, rows)), np.concatenate((best.scores, score(rows))), k)
    return best


def split_rows(rows: I64) -> Iterator[I64]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _chunks(count: int, among: I64 | None) -> Iterator[I64]:
    if among is not None:
        return split_rows(among)
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
