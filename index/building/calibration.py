"""Calibration: measure, once at build time, how hard an index must be searched to reach a target recall. Pure.

The queries are vectors of the shard that the index was not trained on and does not hold while it is measured, as those
of customers are: a vector that it holds is easier to find the neighbours of (at efSearch 16, a graph's recall is .978
instead of .963). One half of the queries chooses an operating point, the other states its recall, because the recall of
a point that was chosen for it is flattered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from index.backends.faiss_support import as_float32
from index.backends.vector_index import VectorIndex
from index.search.space import BATCH, SpaceIndex
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

# Up to here exact search takes at most 1.5 ms of one core (8,192 vectors of 1024 dimensions) and needs no training.
EXACT_FLOATS = 8 << 20
TARGET_RECALL = 0.95
DEPTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
# Half of the queries state a recall@10 of 0.95 with a standard error of half a percent. A small shard holds out fewer.
MAX_QUERIES, _MAX_SHARE = 1024, 8
_SHALLOW, _DEEP_QUERIES = 100, 64  # Beyond this depth so few queries do: each has hundreds of neighbours.
# If a larger search parameter gains less recall than this, compression sets the limit: only more candidates help.
_MIN_RECALL_GAIN = 0.002
_BISECTIONS = 2  # Backends double their search parameter; the point may lie a quarter of the step further than it need.


class CalibrationSet:
    """Queries that an index does not hold, each with the true score of its `depth`-th neighbour in the index."""

    def __init__(
        self, index: VectorIndex, vectors: StoredVectors, depth: int, queries: F32, kth_best_scores: F32
    ) -> None:
        """vectors: those that the index holds; kth_best_scores (n,): of the queries (n, dim), by `best_scores`."""
        self.depth = depth
        self.space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=index)
        self.queries = queries
        self._index = index
        self._kth_best_scores = kth_best_scores

    def find_cheapest(
        self, target: float, *, search_parameter: int = 0, refine_factor: int = 0
    ) -> OperatingPoint | None:
        """The cheapest operating point that reaches the target recall, with at least these two parameters.

        It exceeds the target by its standard error: of several points near it, the luckiest would be chosen otherwise.
        """
        best: OperatingPoint | None = None
        for factor in (factor for factor in self._index.refine_factors if factor >= refine_factor):
            if self.depth * factor >= len(self.space):
                break  # Exact search compares as few vectors.
            max_cost = np.inf if best is None else self._cost(best.search_parameter, best.refine_factor)
            best = self._least_effort(factor, target, search_parameter, max_cost) or best
        return best

    def _least_effort(
        self, factor: int, target: float, search_parameter: int, max_cost: float
    ) -> OperatingPoint | None:
        """The point of that refine factor with the least search parameter that reaches the target; None: too costly."""
        below, recall = 0, -1.0
        for parameter in self._index.search_parameters(self.depth):
            if parameter < search_parameter:
                continue
            if self._cost(parameter, factor) >= max_cost:
                return None
            point, previous_recall = self.measure(parameter, factor), recall
            if _surely_reaches(point, target):
                return self._bisect(below, point, target) if below else point
            below, recall = parameter, point.recall
            if recall - previous_recall < _MIN_RECALL_GAIN:
                return None
        return None

    def _bisect(self, below: int, best: OperatingPoint, target: float) -> OperatingPoint:
        """The least effort between a search parameter that misses the target and a point that reaches it."""
        for _ in range(_BISECTIONS):
            middle = (below + best.search_parameter) // 2
            if middle == below:
                break
            point = self.measure(middle, best.refine_factor)
            if _surely_reaches(point, target):
                best = point
            else:
                below = middle
        return best

    def _cost(self, search_parameter: int, refine_factor: int) -> float:
        return self._index.cost(search_parameter) + self.depth * refine_factor

    def measure(self, search_parameter: int, refine_factor: int) -> OperatingPoint:
        """Measure recall@depth: the share of results that score no less than the last true one, so ties are hits."""
        point = OperatingPoint(
            depth=self.depth,
            search_parameter=search_parameter,
            refine_factor=refine_factor,
            cost=round(self._index.cost(search_parameter), 1),
            recall=0,
            standard_error=0,
        )
        # The true score comes from a matrix product, which rounds differently.
        recalls = np.array(
            [
                np.count_nonzero(scores >= kth_best - 1e-6) / self.depth
                for scores, kth_best in zip(self._scores(point), self._kth_best_scores, strict=True)
            ]
        )
        standard_error = float(recalls.std()) / len(recalls) ** 0.5
        return replace(point, recall=round(float(recalls.mean()), 4), standard_error=round(standard_error, 4))

    def _scores(self, point: OperatingPoint) -> Iterator[F32]:
        for start in range(0, len(self.queries), BATCH):
            for neighbours in self.space.probe(self.queries[start : start + BATCH], self.depth, point):
                yield neighbours.scores


def draw_queries(documents: int, seed: int) -> I64:
    """Positions, in random order, of the vectors that are queries of a calibration: not to be trained on."""
    size = min(MAX_QUERIES, documents // _MAX_SHARE)
    return np.random.default_rng(seed).choice(documents, size, replace=False)


def calibrate(
    index: VectorIndex,
    vectors: StoredVectors,
    query_positions: I64,
    target: float = TARGET_RECALL,
    depths: Sequence[int] = DEPTHS,
) -> tuple[OperatingPoint, ...]:
    """For each depth the cheapest operating point that reaches the target recall for vectors that are not indexed.

    query_positions: of the queries, by `draw_queries`.
    Ends before the first depth at which none does; empty: only exact search is good enough.
    """
    points: list[OperatingPoint] = []
    search_parameter, refine_factor = 0, 0
    with index.without(query_positions, vectors) as (remaining_index, remaining_vectors):
        for depth, queries, kth_best_scores in _depths_and_queries(vectors, query_positions, depths):
            choosing, stating = (
                CalibrationSet(remaining_index, remaining_vectors, depth, queries[part], kth_best_scores[part])
                for part in (slice(0, None, 2), slice(1, None, 2))
            )
            chosen = choosing.find_cheapest(target, search_parameter=search_parameter, refine_factor=refine_factor)
            if chosen is None:
                log.warning(
                    "recall@%d of %.2f is out of reach of the compressed index: searched exactly", depth, target
                )
                break
            search_parameter, refine_factor = chosen.search_parameter, chosen.refine_factor
            points.append(stating.measure(search_parameter, refine_factor))
    return tuple(points)


def still_reach(
    points: Sequence[OperatingPoint],
    index: VectorIndex,
    vectors: StoredVectors,
    query_positions: I64,
    target: float = TARGET_RECALL,
) -> bool:
    """Whether points of an index of fewer vectors reach the target in this one, measured at the depth DEPTHS[0].

    A twelfth of the time that it takes to calibrate 14,000 vectors.
    """
    known = {point.depth: point for point in points}
    if (point := known.get(DEPTHS[0])) is None:
        return False
    with index.without(query_positions, vectors) as (remaining_index, remaining_vectors):
        for depth, queries, kth_best in _depths_and_queries(vectors, query_positions, DEPTHS[:1]):
            measured = CalibrationSet(remaining_index, remaining_vectors, depth, queries, kth_best).measure(
                point.search_parameter, point.refine_factor
            )
            return measured.recall >= target
    return False


def _depths_and_queries(
    vectors: StoredVectors, query_positions: I64, depths: Sequence[int]
) -> Iterator[tuple[int, F32, F32]]:
    """The depths to calibrate, each with its queries and the scores of their last true neighbours."""
    depths = [depth for depth in depths if depth <= DEPTHS[0] or depth * 10 <= len(vectors)]
    shallow, deep = [d for d in depths if d <= _SHALLOW], [d for d in depths if d > _SHALLOW]
    for group, positions in ((shallow, query_positions), (deep, query_positions[:_DEEP_QUERIES])):
        if group:
            queries = as_float32(vectors[positions])
            best = best_scores(queries, vectors, max(group), query_positions)
            yield from ((depth, queries, best[:, depth - 1]) for depth in group)


def best_scores(queries: F32, vectors: StoredVectors, depth: int, left_out: I64) -> F32:
    """(n, depth): the scores of each query's nearest vectors by exact search, falling.

    left_out: positions of vectors that do not count.
    """
    counts = np.ones(len(vectors), dtype=np.bool_)
    counts[left_out] = False
    top = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), 1 << 14):
        chunk = slice(start, start + (1 << 14))
        scores = queries @ as_float32(vectors[chunk][counts[chunk]]).T
        top = np.partition(np.concatenate((top, scores), axis=1), -depth, axis=1)[:, -depth:]
    falling: F32 = -np.sort(-top, axis=1)
    return falling


def _surely_reaches(point: OperatingPoint, target: float) -> bool:
    return point.recall - point.standard_error >= target
