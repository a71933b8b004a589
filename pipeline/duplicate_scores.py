"""Chooses the score from which products are near-duplicates, by queries whose duplicates are known.

Pure: arrays in, figures out. A query is answered as FindDuplicates does it: by the products that score at least so
much, at most HITS of them. Precision is the mean over the queries with an answer of the share of it that is the same
product, recall the mean over the queries that have another of the share of these that is in the answer. Both are means
over queries, not over pairs: a product with a hundred offers, or with a hundred similar ones, counts as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from encoders.quality import F64
from lookalike.releases.manifest import DuplicatesThreshold
from lookalike.vectors import F32, I64, normalised

PRECISION = 0.95  # Wanted of the answers.
HITS = 100  # What FindDuplicates returns at most by default.
MIN_QUERIES = 30  # That have another of the same product, and at the chosen score an answer; fewer are no evidence.
# Where no score reaches PRECISION, so many of as many queries as have another must have an answer: the most precise few
# are so by chance. Fashion titles: .897 at a recall of .03, and .672 of other products.
MIN_ANSWERED = 0.2
STEP = 0.0001  # Scores are rounded down to it: sums of floats differ in the seventh digit, and a score is to be read.
_ROUNDING = 1e-6
_BLOCK = 8192  # Vectors compared at a time: 32 MB of scores.


class ScoredQueries(NamedTuple):
    """The nearest products of each query, nearest first."""

    scores: F32  # (n, HITS) cosines; -inf where there is no such product.
    same: npt.NDArray[np.bool_]  # (n, HITS) whether it is the same product as the query.
    relevant: I64  # (n,) how many there are of the same product.


@dataclass(frozen=True, slots=True)
class Identity:
    """Which products are the same: those of which any of these codes is equal."""

    codes: Sequence[I64]  # Each (products,).

    def same(self, rows: I64, others: I64) -> npt.NDArray[np.bool_]:
        """(n, m) whether the products `rows` (n,) are the same as `others` (n, m)."""
        is_same = np.zeros(others.shape, dtype=bool)
        for codes in self.codes:
            is_same |= codes[others] == codes[rows][:, None]
        return is_same

    def count(self, rows: I64, among: I64) -> I64:
        """(n,) how many of the products `among` are the same as each of `rows`, by inclusion and exclusion."""
        total = np.zeros(len(rows), dtype=np.int64)
        for subset in range(1, 1 << len(self.codes)):
            chosen = np.stack([codes for i, codes in enumerate(self.codes) if subset >> i & 1], axis=1)
            joint = np.unique(chosen, axis=0, return_inverse=True)[1].reshape(-1)
            sign = 1 if chosen.shape[1] % 2 else -1
            total += sign * np.bincount(joint[among], minlength=joint.max() + 1)[joint[rows]]
        return total


class Nearest(NamedTuple):
    """The products whose vectors are the most similar to each query, nearest first."""

    scores: F32  # (n, HITS + 1) cosines; fewer columns if there are fewer vectors.
    products: I64  # (n, HITS + 1)


def find_nearest(queries: F32, vectors: F32, vector_rows: I64) -> Nearest:
    """Compare queries (n, d) with the vectors (m, d) of the products `vector_rows`, all of them."""
    scores, positions = _nearest(normalised(queries), vectors, HITS + 1)
    return Nearest(scores, vector_rows[positions])


def score_queries(
    nearest: Nearest, rows: I64, vector_rows: I64, identity: Identity, *, find_own: bool
) -> ScoredQueries:
    """What queries of the products `rows` found among the products `vector_rows`, and what there was to find.

    find_own: whether a query is to find its own product, as a copy is; else that is left out.
    """
    scores, found = nearest
    relevant = identity.count(rows, vector_rows)
    if not find_own:
        scores = np.where(found == rows[:, None], np.float32(-np.inf), scores)
        order = np.argsort(-scores, axis=1, kind="stable")
        scores, found = np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)
        relevant = relevant - np.isin(rows, vector_rows)
    scores, found = scores[:, :HITS], found[:, :HITS]
    return ScoredQueries(scores, identity.same(rows, found) & (scores > -np.inf), relevant)


def _nearest(queries: F32, vectors: F32, k: int) -> tuple[F32, I64]:
    """(n, k) cosines and positions of the k nearest, nearest first; fewer columns if there are fewer vectors."""
    best: F32 = np.empty((len(queries), 0), dtype=np.float32)
    positions: I64 = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = queries @ normalised(np.asarray(vectors[start : start + _BLOCK])).T
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        best, positions = np.concatenate([best, block], axis=1), np.concatenate([positions, numbers], axis=1)
        if best.shape[1] > k:
            kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, positions = np.take_along_axis(best, kept, axis=1), np.take_along_axis(positions, kept, axis=1)
    order = np.lexsort((positions, -best), axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(positions, order, axis=1)


def join(*parts: ScoredQueries) -> ScoredQueries:
    """The queries of all parts."""
    return ScoredQueries(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def choose_threshold(queries: ScoredQueries, measured_by: str) -> DuplicatesThreshold | None:
    """The least score whose precision is surely PRECISION, so that the recall is greatest; else the most precise one.

    Surely: less its standard error, since of many scores with few answers some are precise by chance. Chosen by the
    precision itself, titles of 128 products of flipkart stated .963, and 187 others had .876.
    Only of scores at which MIN_QUERIES queries have an answer. None if fewer have another of the same product.
    """
    if (with_another := np.count_nonzero(queries.relevant)) < MIN_QUERIES:
        return None
    steps = np.floor((queries.scores + _ROUNDING) / STEP)
    curves = _curves(queries, steps)
    # Where a step ends, all hits that score as much are counted.
    falling = np.sort(steps, axis=None)[::-1]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    ends = ends[(curves.answered[ends] >= MIN_QUERIES) & (falling[ends] > -np.inf)]
    if not len(ends):
        return None
    sure = curves.precision[ends] - curves.standard_error[ends]
    if (reached := sure >= PRECISION).any():
        chosen = ends[reached][-1]
    else:
        chosen = ends[np.argmax(np.where(curves.answered[ends] >= MIN_ANSWERED * with_another, sure, -1))]
    return DuplicatesThreshold(
        min_score=round(float(falling[chosen]) * STEP, 4),
        precision=round(float(curves.precision[chosen]), 4),
        recall=round(float(curves.recall[chosen]), 4),
        queries=len(queries.scores),
        measured_by=measured_by,
    )


class _Curves(NamedTuple):
    """Of the answers with all hits down to one, by falling step."""

    precision: F64
    standard_error: F64  # Of the precision.
    recall: F64
    answered: I64  # Queries with an answer.


def _curves(queries: ScoredQueries, steps: F32) -> _Curves:
    order = np.argsort(-steps, axis=None, kind="stable")

    def running_sum(of_hits: F64) -> F64:
        """Of what each query has, when its first hits have so much."""
        return np.asarray(np.diff(of_hits, axis=1, prepend=0).reshape(-1)[order].cumsum())

    hits = np.arange(1, steps.shape[1] + 1)
    right = queries.same.cumsum(axis=1)
    answered = np.rint(running_sum(np.ones(steps.shape))).astype(np.int64)
    precision = running_sum(right / hits) / np.maximum(answered, 1)
    squares = running_sum((right / hits) ** 2) / np.maximum(answered, 1)
    recall = running_sum(right / np.maximum(queries.relevant, 1)[:, None]) / np.count_nonzero(queries.relevant)
    standard_error = np.sqrt(np.maximum(squares - precision**2, 0) / np.maximum(answered, 1))
    return _Curves(precision, standard_error, recall, answered)


class Answers(NamedTuple):
    """How good the answers to queries are with one least score."""

    precision: F64  # Of each query with an answer.
    recall: F64  # Of each query that has another of the same product.
    pair_precision: float  # Of all hits of all queries together.


def answers_from(queries: ScoredQueries, min_score: float) -> Answers:
    """The answers to queries with this least score."""
    is_hit = queries.scores >= min_score - _ROUNDING
    hits, right = is_hit.sum(axis=1), (is_hit & queries.same).sum(axis=1)
    answered, has_another = hits > 0, queries.relevant > 0
    return Answers(
        precision=right[answered] / hits[answered],
        recall=right[has_another] / queries.relevant[has_another],
        pair_precision=float(right.sum() / max(hits.sum(), 1)),
    )
