"""Merge the shards' hits into one answer. Pure: serialized hits in, the serialized answer's hits out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from protos.lookalike.v1.index_pb2 import OpaqueHit, ShardHits
from protos.lookalike.v1.types_pb2 import Space, SpaceScore


def merged(
    shards: Iterable[ShardHits], limit: int, without: Collection[str], explained: Sequence[Space.ValueType] = ()
) -> list[OpaqueHit]:
    """The best `limit` hits by (falling score, rising id), leaving out the ids in `without`.

    explained: the spaces that the shards told each hit's cosines of, in that order; none unless they were asked to.
    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    best: list[tuple[Any, ...]] = []  # (-score, id, product), and the cosines where they are explained.
    for hits in shards:
        negated = [-score for score in np.frombuffer(hits.scores, dtype="<f4").tolist()]
        told = (_cosines(hits, len(explained)),) if explained else ()
        best += zip(negated, hits.ids, hits.products, *told, strict=True)
    best.sort()
    kept = islice((hit for hit in best if hit[1] not in without), limit)
    if not explained:
        return [OpaqueHit(product=hit[2], score=-hit[0]) for hit in kept]
    return [OpaqueHit(product=hit[2], score=-hit[0], scores=_explained(explained, hit[3])) for hit in kept]


def _cosines(hits: ShardHits, spaces: int) -> list[list[float]]:
    """For each hit one cosine per space."""
    rows: list[list[float]] = np.frombuffer(hits.explained, dtype="<f4").reshape(-1, spaces).tolist()
    return rows


def _explained(spaces: Sequence[Space.ValueType], cosines: Sequence[float]) -> list[SpaceScore]:
    return [SpaceScore(space=space, score=cosine) for space, cosine in zip(spaces, cosines, strict=True)]
