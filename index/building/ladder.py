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
# Where more effort gains less than this, the codes and not the effort set the limit: only more candidates help.
_GAIN = 0.002


def measured(codes: Codes, vectors: Stored, seed: int, target: float = TARGET_RECALL) -> tuple[Rung, ...]:
    """For each depth the least work that reaches the target recall on sampled vectors, each without itself.

    Ends before the first depth at which nothing reaches it; empty: only exact search is good enough.
    """
    documents = len(vectors)
    space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(documents), codes=codes)
    random = np.random.default_rng(seed)
    ladder: list[Rung] = []
    for depth in (depth for depth in DEPTHS if depth == DEPTHS[0] or depth * 10 <= documents):
        # 2,560 neighbours and more: the standard error of a recall of 0.95 is about half a percent.
        asked = np.sort(random.choice(documents, min(documents, 256 if depth <= 100 else 32), replace=False))
        below = ladder[-1] if ladder else Rung(depth=0, effort=0, factor=0, cost=0, recall=0)
        reached = _least(space, codes, asked, below, depth=depth, target=target)
        if reached is None:
            log.warning("recall@%d of %.2f is out of reach of the compressed index: searched exactly", depth, target)
            break
        ladder.append(reached)
    return tuple(ladder)


def _least(space: SpaceIndex, codes: Codes, asked: I64, below: Rung, *, depth: int, target: float) -> Rung | None:
    """The cheapest rung that reaches the target, with no less effort and candidates than the one below it.

    More candidates may save effort: from the least on they are raised as long as that makes the search cheaper.
    """
    edges = _edges(space.vectors, asked, depth)
    best: Rung | None = None
    for factor in (factor for factor in codes.factors if factor >= below.factor):
        recall = -1.0
        for effort in (effort for effort in codes.efforts(depth) if effort >= below.effort):
            rung = Rung(depth=depth, effort=effort, factor=factor, cost=round(codes.cost(effort), 1), recall=0)
            if best is not None and _work(rung) >= _work(best):
                return best
            rung, before = _measure(space, asked, edges, rung), recall
            recall = rung.recall
            if recall >= target:
                best = rung
                break
            if recall - before < _GAIN:
                break
    return best


def _work(rung: Rung) -> float:
    return rung.cost + rung.depth * rung.factor


def _measure(space: SpaceIndex, asked: I64, edges: F32, rung: Rung) -> Rung:
    """The rung with its recall: the part of the results that score no less than the last true one, so ties are hits."""
    hits = 0
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        found = space.probe(wide(space.vectors[part]), rung.depth + 1, rung)
        for itself, edge, (rows, scores) in zip(part, edges[start : start + BATCH], found, strict=True):
            # The edge comes from a matrix product, which rounds otherwise.
            hits += int(np.count_nonzero(scores[rows != itself][: rung.depth] >= edge - 1e-6))
    return replace(rung, recall=round(hits / (rung.depth * len(asked)), 4))


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
