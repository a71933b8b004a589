"""Exact inner products and exact top-k search. Pure: arrays in, arrays out; vectors may be a memory mapping.

Every score that leaves a shard comes from one kernel over one pair of vectors. So it depends neither on the other
queries of the batch nor on how the product was found: equal vectors have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import faiss
import numpy as np

from index.backends.filter_bitmap import Mask
from index.search.cost import UNLIMITED, WorkLimit
from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64

# Rows scored at a time by an exact search: 128 KiB of scores, which stay in the CPU cache; at 1024 dimensions 11 ms
# for float32 vectors, 33 ms for float16.
CHUNK = 1 << 15
# float16 vectors converted to float32 at a time by an exact search: 2 MiB at 1024 dimensions.
_FLOAT16_CHUNK = 1 << 9
# And of candidates: 0.5 MiB, in a tenth less time than 2 for batches of 16, and each search thread keeps such buffers.
_FLOAT16_CANDIDATES = 1 << 7
_SIGN_AND_FLOAT16_BITS = np.int32(-0x70000001)  # 0x8fffffff.
_FLOAT16_SCALE = np.float32(2.0**112)  # The exponent's bias is 15 in float16 and 127 in float32.


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
    few_rows = max(1, min(rows.shape[1], _FLOAT16_CANDIDATES))
    few_queries = _FLOAT16_CANDIDATES // few_rows
    buffer = np.empty((min(few_rows * few_queries, rows.size), vectors.shape[1]), dtype=np.float32)
    for first in range(0, len(queries), few_queries):
        for start in range(0, rows.shape[1], few_rows):
            part = rows[first : first + few_queries, start : start + few_rows]
            widened = _widen(vectors[part.ravel()], buffer)
            scores[first : first + few_queries, start : start + few_rows] = inner_products(
                queries[first : first + few_queries], widened, np.arange(part.size).reshape(part.shape)
            )
    scores[rows < 0] = -np.inf
    return scores


def matrix_product(queries: F32, vectors: StoredVectors) -> F32:
    """Inner products (n, m) of queries (n, dim) with vectors (m, dim), rounded differently for every n and m.

    They differ from `inner_products` by at most `rounding_error`. 16 queries take 2.5 times the time of one, 64 five
    times; queries @ vectors.T, with the same result, takes a third longer.
    """
    products = np.empty((len(vectors), len(queries)), dtype=np.float32)
    if vectors.dtype == np.float32:
        np.matmul(vectors, queries.T, out=products)
        return products.T
    buffer = np.empty((_FLOAT16_CHUNK, vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors), _FLOAT16_CHUNK):
        end = start + _FLOAT16_CHUNK
        np.matmul(_widen(vectors[start:end], buffer), queries.T, out=products[start:end])
    return products.T


def rounding_error(dim: int) -> float:
    """Bound of the difference of two inner products of the same two unit vectors, summed in different orders.

    Each differs from the exact product by at most dim · 2⁻²⁴, to first order, for vectors of unit norm (Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, 3.1). 5 % are added for the norms' own rounding and higher
    orders, and 8 · 2⁻²⁴ for a weighted sum of such products.
    """
    return (2.1 * dim + 8) * 2.0**-24


def _widen(vectors: StoredVectors, out: F32) -> F32:
    """Convert finite float16 vectors (n, dim) exactly to float32, in the first n rows of `out`, which are returned.

    Moves the bits, 0.7 µs for 1024 components; NumPy converts them one by one in 1.5 µs.
    """
    widened = out[: len(vectors)]
    bits = widened.view(np.int32)
    np.copyto(bits, vectors.view(np.int16))  # The sign fills the upper half.
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_FLOAT16_BITS, out=bits)
    np.multiply(widened, _FLOAT16_SCALE, out=widened)
    return widened


def top_k(rows: I64, scores: F32, k: int) -> Neighbours:
    """The k best rows; of those tied at the k-th score, the lowest."""
    if len(rows) > k:
        kth_score = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[scores >= kth_score], scores[scores >= kth_score]
    order = np.lexsort((rows, -scores))[:k]
    return Neighbours(rows[order], scores[order])


def pass_only(candidates: I64, passes: Mask) -> I64:
    """The candidates (n, c) that pass, rising, after a −1 for each that the query has fewer than others."""
    width = int(np.count_nonzero(passes, axis=1).max())
    return np.sort(np.where(passes, candidates, -1), axis=1)[:, candidates.shape[1] - width :]


def best_candidates(queries: F32, vectors: StoredVectors, candidates: I64, k: int) -> list[Neighbours]:
    """The k best of each query's candidates (n, c), which are rising rows after any −1, which stands for none."""
    scores = inner_products(queries, vectors, candidates)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # Equal scores by rising row.
    at = np.arange(len(order))[:, None]
    best, scores = candidates[at, order], scores[at, order]
    if not best.size or best[:, -1].min() >= 0:
        return [*map(Neighbours, best, scores)]
    counts = np.count_nonzero(best >= 0, axis=1).tolist()  # Those without a row are last, with scores of −∞.
    return [
        Neighbours(rows[:count], best_of[:count]) for rows, best_of, count in zip(best, scores, counts, strict=True)
    ]


def exact_candidates(queries: F32, vectors: StoredVectors, k: int, mask: Mask | None = None) -> I64:
    """Rows (n, c) that include the k > 0 nearest to each query (n, dim) of all vectors (m, dim), for `best_candidates`.

    mask: (m,) the rows that may be among them; None: all.
    One product of matrices selects them: its rounding differs, so that a few more than k may be among the best.
    """
    products = np.ascontiguousarray(matrix_product(queries, vectors))
    if mask is not None:
        products[:, ~mask] = -np.inf
    likely = np.isfinite(products)
    if k < products.shape[1]:
        kth_best = np.partition(products, -k, axis=1)[:, -k]
        likely &= products >= (kth_best - 2 * rounding_error(vectors.shape[1]))[:, None]
    of_query, rows = np.nonzero(likely)
    counts = np.bincount(of_query, minlength=len(queries))
    ends = np.cumsum(counts)
    candidates = np.full((len(queries), int(counts.max())), -1, dtype=np.int64)
    # Right-aligned: −1 first, then rising rows.
    candidates[of_query, np.arange(len(rows)) - ends[of_query]] = rows
    return candidates


def exact_search(
    query: F32, vectors: StoredVectors, k: int, among: I64 | None = None, *, limit: WorkLimit = UNLIMITED
) -> Neighbours:
    """The k nearest to the query (dim,) of all vectors (m, dim), or only of the rows `among`, which rise."""
    chunks = _chunks(len(vectors), among)
    return top_k_of_chunks(
        chunks, k, lambda rows: inner_products(query[None, :], vectors, rows[None, :])[0], limit=limit
    )


def top_k_of_chunks(
    chunks: Iterable[I64], k: int, score: Callable[[I64], F32], *, limit: WorkLimit = UNLIMITED
) -> Neighbours:
    """The k best of the rows in all chunks; `score` gives the scores of a chunk's rows. Raises as the limit's check."""
    best = Neighbours(np.empty(0, np.int64), np.empty(0, np.float32))
    if not k:
        return best
    for rows in chunks:
        limit.check()
        best = top_k(np.concatenate((best.rows, rows)), np.concatenate((best.scores, score(rows))), k)
    return best


def split_rows(rows: I64) -> Iterator[I64]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _chunks(count: int, among: I64 | None) -> Iterator[I64]:
    if among is not None:
        return split_rows(among)
    return (np.arange(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
