"""Quality metrics of vectors and classifiers: precision@k by label, and calibration. Pure: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
_BLOCK = 512  # Queries per matrix product: 40 MB of scores against 20,000 vectors.


def nearest_neighbours(vectors: F32, k: int) -> I64:
    """Exact k nearest neighbours of each vector among the others, by inner product.

    vectors: (n, dim), unit norm. Returns (n, min(k, n - 1)) row numbers, nearest first, ties by ascending row. O(n²):
    for samples of up to about ten thousand.
    """
    k = min(k, len(vectors) - 1)
    neighbours = np.empty((len(vectors), max(k, 0)), dtype=np.int64)
    for start in range(0, len(vectors) if k > 0 else 0, _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, rows + start] = -np.inf
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        neighbours[start : start + _BLOCK] = np.take_along_axis(best, order, axis=1)
    return neighbours


def neighbour_precisions(neighbours: I64, labels: Sequence[str]) -> npt.NDArray[np.float64]:
    """(n,) share of each query's neighbours (n, k) that have the query's label; 0 without neighbours."""
    numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)[1]
    if not neighbours.size:
        return np.zeros(len(neighbours))
    return np.asarray((numbers[neighbours] == numbers[:, None]).mean(axis=1))


def label_codes(labels: Sequence[str | bytes]) -> I64:
    """(n,) a number for each label; those of an empty label, which stands for an unknown one, are all different."""
    code_of: dict[object, int] = {}
    # Not np.unique, which pads every label to the longest: labels may be texts of 64 KiB.
    return np.fromiter((code_of.setdefault(label or i, len(code_of)) for i, label in enumerate(labels)), np.int64)


def rows_of_repeated(codes: I64) -> I64:
    """The rows whose code another row has too, in ascending order."""
    return np.flatnonzero(np.bincount(codes)[codes] > 1) if len(codes) else codes


ScoreQueries = Callable[[I64], F32]  # Numbers of queries (b,) to their similarity to all references (b, m).


def inner_products(queries: F32, references: F32) -> ScoreQueries:
    """The cosine similarity of unit vectors (n, dim) and (m, dim)."""
    return lambda numbers: np.asarray(queries[numbers] @ references.T)


def ranked_matches(
    scores: ScoreQueries, query_codes: I64, codes: I64, *, own_rows: I64 | None, depth: int
) -> npt.NDArray[np.bool_]:
    """(n, depth) whether each of the nearest of m references has the code of the query, nearest first.

    Ties by ascending row; fewer columns if there are fewer references.
    own_rows: the references that the queries themselves are, which are left out; None: they are none of them.
    """
    depth = max(min(depth, len(codes) - (own_rows is not None)), 0)
    matches = np.zeros((len(query_codes), depth), dtype=bool)
    for start in range(0, len(query_codes) if depth else 0, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, len(query_codes)))
        block = scores(numbers)
        if own_rows is not None:
            block[np.arange(len(block)), own_rows[numbers]] = -np.inf
        best = np.sort(np.argpartition(-block, depth - 1, axis=1)[:, :depth], axis=1)
        order = np.argsort(-np.take_along_axis(block, best, axis=1), axis=1, kind="stable")
        matches[numbers] = codes[np.take_along_axis(best, order, axis=1)] == query_codes[numbers, None]
    return matches


class IdentityMetrics(NamedTuple):
    """Of each query, how well its R relevant references are found: those that are the same product."""

    r_precision: F64  # Relevant ones among the R nearest, divided by R.
    nearest_is_same: F64  # 1 if the nearest is relevant, else 0.
    precision_at_10: F64  # Relevant ones among the ten nearest, divided by ten.


def identity_metrics(scores: ScoreQueries, query_codes: I64, codes: I64, *, own_rows: I64 | None) -> IdentityMetrics:
    """The metrics of queries that each have a relevant reference, one of its code; as `ranked_matches` ranks."""
    counts = np.bincount(codes, minlength=int(query_codes.max(initial=0)) + 1)
    relevant = counts[query_codes] - (own_rows is not None)
    depth = max(10, int(relevant.max(initial=1)))
    found = ranked_matches(scores, query_codes, codes, own_rows=own_rows, depth=depth).cumsum(axis=1)
    return IdentityMetrics(
        r_precision=found[np.arange(len(found)), relevant - 1] / relevant,
        nearest_is_same=found[:, 0].astype(np.float64),
        precision_at_10=found[:, :10][:, -1] / 10,
    )


def precision_at_10(vectors: F32, labels: Sequence[str]) -> float:
    """Leave-one-out precision@10 of unit vectors, averaged over products whose label occurs at least twice.

    A label with fewer than ten other products cannot reach precision 1; this limits every vector space equally.
    """
    names, counts = np.unique(np.asarray(labels, dtype=object).astype(str), return_counts=True)
    repeated = set(names[counts > 1])
    evaluated = np.fromiter((label in repeated for label in labels), bool, len(labels))
    return (
        float(neighbour_precisions(nearest_neighbours(vectors, 10), labels)[evaluated].mean())
        if evaluated.any()
        else 0.0
    )


def best_precision_at_10(labels: Sequence[str]) -> float:
    """What `precision_at_10` cannot exceed: all products of the label first."""
    _, codes, counts = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True, return_counts=True)
    others = counts[codes] - 1
    neighbours = min(10, len(labels) - 1)
    return float(np.minimum(others[others > 0], neighbours).mean() / neighbours) if (others > 0).any() else 0.0


def majority_vote(queries: F32, references: F32, labels: Sequence[str], k: int = 10) -> tuple[list[str], F64]:
    """k-NN classification: the most frequent label among each query's k nearest references, and its share.

    queries (n, dim) and references (m, dim), m > 0, of unit norm; labels (m,). Returns n labels and (n,) shares. Ties
    go to the label with the larger sum of inner products, then to the first by name.
    """
    names, numbers = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    k = min(k, len(references))
    winners, shares = np.empty(len(queries), dtype=np.int64), np.empty(len(queries))
    for row in range(0, len(queries), _BLOCK):
        scores = queries[row : row + _BLOCK] @ references.T
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        for query, nearest_rows in enumerate(nearest, row):
            votes = np.bincount(numbers[nearest_rows], minlength=len(names))
            similarity_sums = np.bincount(numbers[nearest_rows], scores[query - row, nearest_rows], len(names))
            winners[query] = np.lexsort((-similarity_sums, -votes))[0]
            shares[query] = votes[winners[query]] / k
    return [str(names[winner]) for winner in winners], shares


class ReliabilityBin(NamedTuple):
    """Predictions of similar confidence."""

    confidence: float  # Mean of the bin.
    accuracy: float  # Share of correct predictions.
    answers: int  # Predictions in the bin.


def reliability_bins(
    confidences: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int = 15
) -> list[ReliabilityBin]:
    """The reliability diagram: predictions in equal-width bins of confidence 0..1, without the empty bins."""
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            float(confidences[bin_of == b].mean()), float(correct[bin_of == b].mean()), int((bin_of == b).sum())
        )
        for b in np.unique(bin_of)
    ]


def expected_calibration_error(
    confidences: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int = 15
) -> float:
    """ECE (Guo et al. 2017): the mean of |confidence - accuracy| over equal-width bins, weighted by bin size."""
    reliability = reliability_bins(confidences, correct, bins)
    return sum(abs(b.confidence - b.accuracy) * b.answers for b in reliability) / max(len(confidences), 1)
