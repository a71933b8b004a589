"""Calibration: measure, once at build time, how hard an index must be searched to reach a target recall. Pure."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from index.backends.faiss_support import as_float32
from index.backends.vector_index import VectorIndex
from index.search.space import BATCH, SpaceIndex
from index.storage.manifest import IndexEntry, OperatingPoint
from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

# Up to here exact search takes at most 1.5 ms of one core (8,192 vectors of 1024 dimensions) and needs no training.
EXACT_FLOATS = 8 << 20
TARGET_RECALL = 0.95
DEPTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
# If a larger search parameter gains less recall than this, compression sets the limit: only more candidates help.
_MIN_RECALL_GAIN = 0.002


class CalibrationSet:
    """Indexed vectors used as queries, each excluding itself, with the true score of its `depth`-th neighbour."""

    def __init__(self, index: VectorIndex, vectors: StoredVectors, depth: int, query_rows: I64) -> None:
        self.depth = depth
        self.space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=index)
        self.query_rows = query_rows
        self._index = index
        self._kth_best_scores = _kth_best_scores(vectors, self.query_rows, depth)

    def find_cheapest(
        self, target: float, *, search_parameter: int = 0, refine_factor: int = 0
    ) -> OperatingPoint | None:
        """The cheapest operating point that reaches the target recall, with at least these two parameters.

        More candidates may allow a smaller search parameter: the refine factor rises as long as that is cheaper.
        """
        best: OperatingPoint | None = None
        for factor in (factor for factor in self._index.refine_factors if factor >= refine_factor):
            if self.depth * factor >= len(self.space):
                break  # Exact search compares as few vectors.
            recall = -1.0
            for parameter in self._index.search_parameters(self.depth):
                if parameter < search_parameter:
                    continue
                if best is not None and self._cost(parameter, factor) >= best.cost + self.depth * best.refine_factor:
                    return best
                point, previous_recall = self.measure(parameter, factor), recall
                recall = point.recall
                if recall >= target:
                    best = point
                    break
                if recall - previous_recall < _MIN_RECALL_GAIN:
                    break
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
        )
        hits = 0
        for start in range(0, len(self.query_rows), BATCH):
            batch = self.query_rows[start : start + BATCH]
            kth_best_scores = self._kth_best_scores[start : start + BATCH]
            results = self.space.probe(self.queries(batch), self.depth + 1, point)
            for query_row, kth_best, (rows, scores) in zip(batch, kth_best_scores, results, strict=True):
                # The true score comes from a matrix product, which rounds differently.
                hits += int(np.count_nonzero(scores[rows != query_row][: self.depth] >= kth_best - 1e-6))
        return replace(point, recall=round(hits / (self.depth * len(self.query_rows)), 4))

    def queries(self, rows: I64) -> F32:
        return as_float32(self.space.vectors[rows])


def calibrate(
    index: VectorIndex, vectors: StoredVectors, seed: int, target: float = TARGET_RECALL
) -> tuple[OperatingPoint, ...]:
    """For each depth the cheapest operating point that reaches the target recall on sampled vectors.

    Ends before the first depth at which none does; empty: only exact search is good enough.
    """
    random = np.random.default_rng(seed)
    points: list[OperatingPoint] = []
    search_parameter, refine_factor = 0, 0
    for depth in (depth for depth in DEPTHS if depth == DEPTHS[0] or depth * 10 <= len(vectors)):
        # 2,560 neighbours and more: the standard error of a recall of 0.95 is about half a percent.
        size = min(len(vectors), 256 if depth <= 100 else 32)
        query_rows = np.sort(random.choice(len(vectors), size, replace=False))
        point = CalibrationSet(index, vectors, depth, query_rows).find_cheapest(
            target, search_parameter=search_parameter, refine_factor=refine_factor
        )
        if point is None:
            log.warning("recall@%d of %.2f is out of reach of the compressed index: searched exactly", depth, target)
            break
        points.append(point)
        search_parameter, refine_factor = point.search_parameter, point.refine_factor
    return tuple(points)


def _kth_best_scores(vectors: StoredVectors, query_rows: I64, depth: int) -> F32:
    """(n,): the score of the depth-th nearest vector of each query, itself excluded, by exact search."""
    queries = as_float32(vectors[query_rows])
    top = np.full((len(query_rows), depth), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), 1 << 14):
        scores = queries @ as_float32(vectors[start : start + (1 << 14)]).T
        in_chunk = (query_rows >= start) & (query_rows < start + scores.shape[1])
        scores[in_chunk, query_rows[in_chunk] - start] = -np.inf
        top = np.partition(np.concatenate((top, scores), axis=1), -depth, axis=1)[:, -depth:]
    lowest: F32 = top.min(axis=1)
    return lowest
