"""What is measured of neighbours, with intervals. Pure: arrays in, arrays out.

Of a query with R others of its label among n - 1 others:

    precision@10   right ones among the 10 nearest / 10
    recall@R       right ones among the R nearest / R    (where as many are looked at as there are: precision = recall)
    recall@100     right ones among the 100 nearest / R

With fewer than 10 (100) others than the query, all of them are looked at.
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
Scores = Callable[[I64], F32]  # Of the products in some rows (b,) with all: (b, n).

MEASURES = ("precision@10", "recall@R", "recall@100")
NEAREST, FAR = 10, 100
RESAMPLES = 1000
_DRAWN = 200_000  # Queries drawn at a time: 5 MB of values.
_BLOCK = 256  # Queries ranked at a time: 40 MB of ranks among 20,000.


@dataclass(frozen=True, eq=False)
class Found:
    """Of n products, each a query among the others.

    nearest (n, min(10, n - 1)): rows, nearest first. values: for each labelling's title (3, n) in the order of
    MEASURES; 0 for products that are not asked about.
    """

    nearest: I64
    values: Mapping[str, F64]


class Average(NamedTuple):
    """With the 2.5th and 97.5th percentile of its bootstrap distribution."""

    value: float
    low: float
    high: float


_NOTHING = Average(0.0, 0.0, 0.0)


class Averages(NamedTuple):
    micro: Average  # Over queries.
    macro: Average  # Over labels, of the mean over each one's queries.


def cosines(vectors: F32) -> Scores:
    """Of unit vectors (n, dim)."""
    return lambda rows: np.asarray(vectors[rows] @ vectors.T)


def found(count: int, scores_of: Scores, labellings: Sequence[Labelling]) -> Found:
    """Rank all others of each of `count` products by falling score, equal ones by rising row. O(n² log n)."""
    nearest = np.empty((count, min(NEAREST, count - 1)), dtype=np.int64)
    values = {labelling.title: np.zeros((len(MEASURES), count)) for labelling in labellings}
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        scores = scores_of(rows)
        scores[np.arange(len(rows)), rows] = -np.inf
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, : count - 1]
        nearest[rows] = ranked[:, :NEAREST]
        for labelling in labellings:
            values[labelling.title][:, rows] = _values(ranked, rows, labelling)
    return Found(nearest, values)


def _values(ranked: I64, rows: I64, labelling: Labelling) -> F64:
    """(3, len(rows)) of the queries in `rows`, whose others are `ranked`."""
    right = (labelling.codes[ranked] == labelling.codes[rows][:, None]).cumsum(axis=1, dtype=np.int32)
    others, asked = labelling.others[rows], labelling.asked[rows]
    most = ranked.shape[1]
    if not most:
        return np.zeros((len(MEASURES), len(rows)))
    near, far = min(NEAREST, most), min(FAR, most)
    every = np.maximum(others, 1)
    at_others = right[np.arange(len(rows)), every - 1]
    return np.stack([right[:, near - 1] / near, at_others / every, right[:, far - 1] / every]) * asked


def chance(labelling: Labelling) -> F64:
    """(3, n): what an order at random is expected to give."""
    most = max(len(labelling.codes) - 1, 1)
    share = labelling.others / most
    return np.stack([share, share, np.full(len(share), min(FAR, most) / most)]) * labelling.asked


def ceiling(labelling: Labelling) -> F64:
    """(3, n): what the best order there could be gives."""
    most, others = max(len(labelling.codes) - 1, 1), labelling.others
    near, far, every = min(NEAREST, most), min(FAR, most), np.maximum(others, 1)
    best = [np.minimum(others, near) / near, np.ones(len(others)), np.minimum(others, far) / every]
    return np.stack(best) * labelling.asked


def averages(values: F64, codes: I64, seed: int) -> list[Averages]:
    """One for each row of values (m, q) of queries whose labels are `codes` (q,); intervals by stratified bootstrap.

    Queries are drawn again from those of their own label: the interval is that of other queries of the same labels
    among the same neighbours. All zeros where there is no query.
    """
    if not len(codes):
        return [Averages(_NOTHING, _NOTHING)] * len(values)
    values = values[:, np.argsort(codes, kind="stable")]
    sizes = np.unique(codes, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    mean = _means(values, starts, sizes)
    low, high = np.percentile(_resampled(values, starts, sizes, seed), [2.5, 97.5], axis=1)
    return [Averages(*map(Average, mean[i], low[i], high[i])) for i in range(len(values))]


def _resampled(values: F64, starts: I64, sizes: I64, seed: int) -> F64:
    """(m, RESAMPLES, 2): `_means` of queries drawn again within their labels."""
    random, count = np.random.default_rng(seed), values.shape[1]
    own_start, own_size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    at_once = max(_DRAWN // count, 1)
    drawn = []
    for done in range(0, RESAMPLES, at_once):
        places = random.random((min(at_once, RESAMPLES - done), count))
        drawn.append(_means(values[:, own_start + (places * own_size).astype(np.int64)], starts, sizes))
    return np.concatenate(drawn, axis=1)


def _means(values: F64, starts: I64, sizes: I64) -> F64:
    """(…, 2): micro and macro means of values (…, q) whose labels lie together."""
    sums = np.add.reduceat(values, starts, axis=-1)
    return np.stack([sums.sum(axis=-1) / sizes.sum(), (sums / sizes).mean(axis=-1)], axis=-1)


def by_label(values: F64, labelling: Labelling) -> dict[str, F64]:
    """The mean (m,) over the queries of each label that is asked about."""
    codes = labelling.codes[labelling.asked]
    counts = np.bincount(codes, minlength=len(labelling.names))
    means = [np.bincount(codes, row[labelling.asked], len(labelling.names)) / np.maximum(counts, 1) for row in values]
    return {labelling.names[code]: np.array([mean[code] for mean in means]) for code in np.flatnonzero(counts).tolist()}


class Confusion(NamedTuple):
    label: str
    neighbour: str  # "" for neighbours without a label.
    share: float  # Of the ten nearest of the label's products.
    wrong: float  # Of all wrong neighbours, how many are these.


def confusions(nearest: I64, labelling: Labelling) -> list[Confusion]:
    """Where wrong neighbours come from: pairs of labels, the most frequent first."""
    own = np.repeat(labelling.codes[labelling.asked], nearest.shape[1])
    theirs = labelling.codes[nearest[labelling.asked]].ravel()
    per_label = np.bincount(own, minlength=len(labelling.names))
    wrong = own != theirs
    pairs, counts = np.unique(np.stack([own[wrong], theirs[wrong]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], pairs[0], -counts))
    total = max(int(wrong.sum()), 1)
    return [
        Confusion(
            label=labelling.names[pairs[0, at]],
            neighbour=labelling.names[pairs[1, at]] if pairs[1, at] >= 0 else "",
            share=float(counts[at] / per_label[pairs[0, at]]),
            wrong=float(counts[at] / total),
        )
        for at in order
    ]


def shares(nearest: I64, labelling: Labelling, labels: Sequence[str]) -> F64:
    """(len(labels), len(labels) + 1): of the neighbours of each label's products, the share of each, and of others."""
    place = {labelling.names.index(label): at for at, label in enumerate(labels)}
    column = np.array([place.get(code, len(labels)) for code in range(len(labelling.names))] + [len(labels)])
    table = np.zeros((len(labels), len(labels) + 1))
    for code, at in place.items():
        queries = nearest[(labelling.codes == code) & labelling.asked]
        counts = np.bincount(column[labelling.codes[queries].ravel()], minlength=len(labels) + 1)
        table[at] = counts / max(queries.size, 1)
    return table
