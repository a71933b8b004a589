"""How hard a compressed space must be searched to find enough: measured once, when it is built. Pure.

Small spaces are searched exactly. Larger ones get inverted lists over 4-bit product-quantised codes, scanned in
registers (fast scan), and the best candidates are compared again by their full vectors: on clustered 1024-d vectors
2-3 times the queries per core of a graph (HNSW) at the same recall, built 5 times as fast, in 1/32 of the memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from index.kinds.codes import Codes
from index.search.space import BATCH, SpaceIndex
from index.storage.manifest import IndexEntry, Rung
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

# Up to here exact search takes at most 1.5 ms of one core (8,192 vectors of 1024 dimensions) and needs no training.
EXACT_FLOATS = 8 << 20
TARGET_RECALL = 0.95
DEPTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
FACTORS = (4, 8, 16, 32)


def measured(codes: Codes, vectors: F32, seed: int, target: float = TARGET_RECALL) -> tuple[Rung, ...]:
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
        edges = _edges(vectors, asked, depth)
        rungs = _rungs(ladder[-1] if ladder else None, depth, codes.nlist)
        measures = (_measure(space, asked, edges, rung) for rung in rungs)
        reached = next((rung for rung in measures if rung.recall >= target), None)
        if reached is None:
            log.warning("recall@%d of %.2f is out of reach of the compressed index: searched exactly", depth, target)
            break
        ladder.append(reached)
    return tuple(ladder)


def _rungs(below: Rung | None, depth: int, nlist: int) -> Iterator[Rung]:
    """By rising work, from that of the depth before."""
    least = below or Rung(depth=0, nprobe=1, factor=FACTORS[0], recall=0)
    for factor in FACTORS:
        nprobe = least.nprobe
        while factor >= least.factor and nprobe <= nlist:
            yield Rung(depth=depth, nprobe=nprobe, factor=factor, recall=0)
            nprobe *= 2


def _measure(space: SpaceIndex, asked: I64, edges: F32, rung: Rung) -> Rung:
    """The rung with its recall: the part of the results that score no less than the last true one, so ties are hits."""
    hits = 0
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        found = space.probe(np.ascontiguousarray(space.vectors[part]), rung.depth + 1, rung)
        for itself, edge, (rows, scores) in zip(part, edges[start : start + BATCH], found, strict=True):
            # The edge comes from a matrix product, which rounds otherwise.
            hits += int(np.count_nonzero(scores[rows != itself][: rung.depth] >= edge - 1e-6))
    recall = round(hits / (rung.depth * len(asked)), 4)
    return Rung(depth=rung.depth, nprobe=rung.nprobe, factor=rung.factor, recall=recall)


def _edges(vectors: F32, asked: I64, depth: int) -> F32:
    """(n,): the score of the depth-th nearest of each asked vector, itself not counted."""
    queries = vectors[asked]
    top = np.full((len(asked), depth), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), 1 << 14):
        scores = queries @ vectors[start : start + (1 << 14)].T
        here = (asked >= start) & (asked < start + scores.shape[1])
        scores[here, asked[here] - start] = -np.inf
        top = np.partition(np.concatenate((top, scores), axis=1), -depth, axis=1)[:, -depth:]
    edges: F32 = top.min(axis=1)
    return edges
