"""How hard a compressed space must be searched to find enough: measured once, when it is built. Pure."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from index.kinds.engine import wide
from index.kinds.seam import Codes
from index.search.space import BATCH, SpaceIndex
from index.storage.manifest import IndexEntry, Rung
from index.storage.vectors import Stored
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

# Up to here exact search takes at most 1.5 ms of one core (8,192 vectors of 1024 dimensions) and needs no training.
EXACT_FLOATS = 8 << 20
TARGET_RECALL = 0.95
DEPTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
# Where more search_parameter gains less than this, the codes and not the search_parameter set the limit: only more candidates help.
_GAIN = 0.002


class Exam:
    """Some of the vectors as queries, each without itself, and the score of the last true neighbour of each."""

    def __init__(self, codes: Codes, vectors: Stored, depth: int, asked: I64) -> None:
        self.depth = depth
        self.space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), codes=codes)
        self.asked = asked
        self._codes = codes
        self._edges = _edges(vectors, self.asked, depth)

    def least(self, target: float, *, search_parameter: int = 0, factor: int = 0) -> Rung | None:
        """The cheapest rung that reaches the target, with at least so much search_parameter and so many candidates.

        More candidates may save search_parameter: from the least on they are raised as long as that makes the search cheaper.
        """
        best: Rung | None = None
        for candidates in (candidates for candidates in self._codes.factors if candidates >= factor):
            if self.depth * candidates >= len(self.space):
                break  # Exact search compares no more.
            recall = -1.0
            for tried in (tried for tried in self._codes.efforts(self.depth) if tried >= search_parameter):
                if best is not None and self._work(tried, candidates) >= best.cost + self.depth * best.factor:
                    return best
                rung, before = self.measured(tried, candidates), recall
                recall = rung.recall
                if recall >= target:
                    best = rung
                    break
                if recall - before < _GAIN:
                    break
        return best

    def _work(self, search_parameter: int, factor: int) -> float:
        return self._codes.cost(search_parameter) + self.depth * factor

    def measured(self, search_parameter: int, factor: int) -> Rung:
        """With its recall: the part of the results that score no less than the last true one, so ties are hits."""
        rung = Rung(
            depth=self.depth,
            search_parameter=search_parameter,
            factor=factor,
            cost=round(self._codes.cost(search_parameter), 1),
            recall=0,
        )
        hits = 0
        for start in range(0, len(self.asked), BATCH):
            part, edges = self.asked[start : start + BATCH], self._edges[start : start + BATCH]
            found = self.space.probe(self.queries(part), self.depth + 1, rung)
            for itself, edge, (rows, scores) in zip(part, edges, found, strict=True):
                # The edge comes from a matrix product, which rounds otherwise.
                hits += int(np.count_nonzero(scores[rows != itself][: self.depth] >= edge - 1e-6))
        return replace(rung, recall=round(hits / (self.depth * len(self.asked)), 4))

    def queries(self, asked: I64) -> F32:
        return wide(self.space.vectors[asked])


def measured(codes: Codes, vectors: Stored, seed: int, target: float = TARGET_RECALL) -> tuple[Rung, ...]:
    """For each depth the least work that reaches the target recall on sampled vectors, each without itself.

    Ends before the first depth at which nothing reaches it; empty: only exact search is good enough.
    """
    random = np.random.default_rng(seed)
    ladder: list[Rung] = []
    search_parameter, factor = 0, 0
    for depth in (depth for depth in DEPTHS if depth == DEPTHS[0] or depth * 10 <= len(vectors)):
        # 2,560 neighbours and more: the standard error of a recall of 0.95 is about half a percent.
        size = min(len(vectors), 256 if depth <= 100 else 32)
        asked = np.sort(random.choice(len(vectors), size, replace=False))
        reached = Exam(codes, vectors, depth, asked).least(target, search_parameter=search_parameter, factor=factor)
        if reached is None:
            log.warning("recall@%d of %.2f is out of reach of the compressed index: searched exactly", depth, target)
            break
        ladder.append(reached)
        search_parameter, factor = reached.search_parameter, reached.factor
    return tuple(ladder)


def _edges(vectors: Stored, asked: I64, depth: int) -> F32:
    """(n,): the score of the depth-th nearest of each asked vector, itself not counted."""
    queries = wide(vectors[asked])
    top = np.full((len(asked), depth), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), 1 << 14):
        scores = queries @ wide(vectors[start : start + (1 << 14)]).T
        here = (asked >= start) & (asked < start + scores.shape[1])
        scores[here, asked[here] - start] = -np.inf
        top = np.partition(np.concatenate((top, scores), axis=1), -depth, axis=1)[:, -depth:]
    edges: F32 = top.min(axis=1)
    return edges
