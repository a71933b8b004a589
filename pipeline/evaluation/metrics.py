"""Retrieval metrics of ranked neighbours, with bootstrap intervals. Pure: arrays in, arrays out.

Of a query with R relevant products (those with its label) among n - 1 others:

    precision@10   relevant ones among the 10 nearest / 10
    recall@R       relevant ones among the R nearest / R    (equal to precision@R)
    recall@100     relevant ones among the 100 nearest / R

With fewer than 10 (100) others, all of them are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32
from pipeline.evaluation.labels import Labelling

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
ScoreRows = Callable[[I64], F32]  # Product rows (b,) to their similarity to all products (b, n).

METRICS = ("precision@10", "recall@R", "recall@100")
NEAR_K, FAR_K = 10, 100
RESAMPLES = 1000
_RESAMPLED_QUERIES = 200_000  # Resampled at a time: 5 MB of values.
_BLOCK = 256  # Queries ranked at a time: 40 MB of ranks among 20,000 products.


@dataclass(frozen=True, eq=False)
class Ranking:
    """The neighbours of n products, each a query among the others.

    nearest (n, min(10, n - 1)): rows, nearest first. metrics: by the title of each labelling (3, n), in the order of
    METRICS; 0 for products that are no queries.
    """

    nearest: I64
    metrics: Mapping[str, F64]


class Average(NamedTuple):
    """A mean, with the 2.5th and 97.5th percentile of its bootstrap distribution."""

    value: float
    low: float
    high: float


_NO_QUERIES = Average(0.0, 0.0, 0.0)


class MicroMacro(NamedTuple):
    """The micro and the macro average of a metric."""

    micro: Average  # Mean over queries.
    macro: Average  # Mean over labels of the mean over each label's queries.


def cosines(vectors: F32) -> ScoreRows:
    """Cosine similarity of unit vectors (n, dim)."""
    return lambda rows: np.asarray(vectors[rows] @ vectors.T)


def rank_neighbours(count: int, score_rows: ScoreRows, labellings: Sequence[Labelling]) -> Ranking:
    """For each of `count` products, rank the others by descending score, ties by ascending row. O(n² log n)."""
    nearest = np.empty((count, min(NEAR_K, count - 1)), dtype=np.int64)
    metrics = {labelling.title: np.zeros((len(METRICS), count)) for labelling in labellings}
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        scores = score_rows(rows)
        scores[np.arange(len(rows)), rows] = -np.inf
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, : count - 1]
        nearest[rows] = ranked[:, :NEAR_K]
        for labelling in labellings:
            metrics[labelling.title][:, rows] = _query_metrics(ranked, rows, labelling)
    return Ranking(nearest, metrics)


def _query_metrics(ranked: I64, rows: I64, labelling: Labelling) -> F64:
    """(3, len(rows)) the metrics of the queries in `rows`, whose ranked neighbours are `ranked`."""
    relevant = (labelling.codes[ranked] == labelling.codes[rows][:, None]).cumsum(axis=1, dtype=np.int32)
    relevant_counts, is_query = labelling.relevant_counts[rows], labelling.is_query[rows]
    others = ranked.shape[1]
    if not others:
        return np.zeros((len(METRICS), len(rows)))
    near, far = min(NEAR_K, others), min(FAR_K, others)
    divisors = np.maximum(relevant_counts, 1)
    at_r = relevant[np.arange(len(rows)), divisors - 1]
    return np.stack([relevant[:, near - 1] / near, at_r / divisors, relevant[:, far - 1] / divisors]) * is_query


def chance_metrics(labelling: Labelling) -> F64:
    """(3, n) the expected metrics of a random ranking."""
    others = max(len(labelling.codes) - 1, 1)
    share = labelling.relevant_counts / others
    return np.stack([share, share, np.full(len(share), min(FAR_K, others) / others)]) * labelling.is_query


def ceiling_metrics(labelling: Labelling) -> F64:
    """(3, n) the metrics of the best possible ranking."""
    others, relevant = max(len(labelling.codes) - 1, 1), labelling.relevant_counts
    near, far, divisors = min(NEAR_K, others), min(FAR_K, others), np.maximum(relevant, 1)
    best = [np.minimum(relevant, near) / near, np.ones(len(relevant)), np.minimum(relevant, far) / divisors]
    return np.stack(best) * labelling.is_query


def average_metrics(values: F64, codes: I64, seed: int) -> list[MicroMacro]:
    """Average each row of values (m, q) over queries with the labels `codes` (q,); intervals by stratified bootstrap.

    Queries are resampled within their label: the interval is that of other queries of the same labels among the same
    neighbours. All zeros if there is no query.
    """
    if not len(codes):
        return [MicroMacro(_NO_QUERIES, _NO_QUERIES)] * len(values)
    values = values[:, np.argsort(codes, kind="stable")]
    sizes = np.unique(codes, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    mean = _means(values, starts, sizes)
    low, high = np.percentile(_resampled_means(values, starts, sizes, seed), [2.5, 97.5], axis=1)
    return [MicroMacro(*map(Average, mean[i], low[i], high[i])) for i in range(len(values))]


def _resampled_means(values: F64, starts: I64, sizes: I64, seed: int) -> F64:
    """(m, RESAMPLES, 2) the means of queries resampled within their labels."""
    random, count = np.random.default_rng(seed), values.shape[1]
    label_start, label_size = np.repeat(starts, sizes), np.repeat(sizes, sizes)  # Of each query's label.
    batch = max(_RESAMPLED_QUERIES // count, 1)
    means = []
    for start in range(0, RESAMPLES, batch):
        fractions = random.random((min(batch, RESAMPLES - start), count))
        means.append(_means(values[:, label_start + (fractions * label_size).astype(np.int64)], starts, sizes))
    return np.concatenate(means, axis=1)


def _means(values: F64, starts: I64, sizes: I64) -> F64:
    """(…, 2) the micro and macro means of values (…, q) that are sorted by label."""
    sums = np.add.reduceat(values, starts, axis=-1)
    return np.stack([sums.sum(axis=-1) / sizes.sum(), (sums / sizes).mean(axis=-1)], axis=-1)


def means_by_label(values: F64, labelling: Labelling) -> dict[str, F64]:
    """The means (m,) of values (m, n) over the queries of each label that has any."""
    codes = labelling.codes[labelling.is_query]
    counts = np.bincount(codes, minlength=len(labelling.names))
    means = [
        np.bincount(codes, row[labelling.is_query], len(labelling.names)) / np.maximum(counts, 1) for row in values
    ]
    return {labelling.names[code]: np.array([mean[code] for mean in means]) for code in np.flatnonzero(counts).tolist()}


class Confusion(NamedTuple):
    """How often products of one label have neighbours of another."""

    label: str
    neighbour_label: str  # "" for neighbours without a label.
    share_of_neighbours: float  # Among the ten nearest of the products of `label`.
    share_of_errors: float  # Among all irrelevant neighbours.


def find_confusions(nearest: I64, labelling: Labelling) -> list[Confusion]:
    """The pairs of labels that irrelevant neighbours come from, the most frequent first."""
    query_codes = np.repeat(labelling.codes[labelling.is_query], nearest.shape[1])
    neighbour_codes = labelling.codes[nearest[labelling.is_query]].ravel()
    neighbours_per_label = np.bincount(query_codes, minlength=len(labelling.names))
    wrong = query_codes != neighbour_codes
    pairs, counts = np.unique(np.stack([query_codes[wrong], neighbour_codes[wrong]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], pairs[0], -counts))
    total = max(int(wrong.sum()), 1)
    return [
        Confusion(
            label=labelling.names[pairs[0, i]],
            neighbour_label=labelling.names[pairs[1, i]] if pairs[1, i] >= 0 else "",
            share_of_neighbours=float(counts[i] / neighbours_per_label[pairs[0, i]]),
            share_of_errors=float(counts[i] / total),
        )
        for i in order
    ]


def confusion_matrix(nearest: I64, labelling: Labelling, labels: Sequence[str]) -> F64:
    """(len(labels), len(labels) + 1): shares of labels, and of others, among the neighbours of each label's queries."""
    row_of = {labelling.names.index(label): row for row, label in enumerate(labels)}
    column = np.array([row_of.get(code, len(labels)) for code in range(len(labelling.names))] + [len(labels)])
    matrix = np.zeros((len(labels), len(labels) + 1))
    for code, row in row_of.items():
        neighbours = nearest[(labelling.codes == code) & labelling.is_query]
        counts = np.bincount(column[labelling.codes[neighbours].ravel()], minlength=len(labels) + 1)
        matrix[row] = counts / max(neighbours.size, 1)
    return matrix
