"""Merge the shards' hits into one answer. Pure: serialized hits in, the serialized answer's hits out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

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
    best: list[tuple[float, str, bytes, Sequence[float]]] = []
    for hits in shards:
        scores = np.frombuffer(hits.scores, dtype="<f4").tolist()
        best += zip([-score for score in scores], hits.ids, hits.products, _cosines(hits, len(explained)), strict=True)
    best.sort()
    kept = (hit for hit in best if hit[1] not in without)
    if not explained:
        return [OpaqueHit(product=product, score=-negated) for negated, _, product, _ in islice(kept, limit)]
    return [
        OpaqueHit(
            product=product,
            score=-negated,
            scores=[SpaceScore(space=space, score=cosine) for space, cosine in zip(explained, cosines, strict=True)],
        )
        for negated, _, product, cosines in islice(kept, limit)
    ]


def _cosines(hits: ShardHits, spaces: int) -> Sequence[Sequence[float]]:
    """For each hit one cosine per space."""
    if not spaces:
        return [()] * len(hits.ids)
    rows: list[list[float]] = np.frombuffer(hits.explained, dtype="<f4").reshape(-1, spaces).tolist()
    return rows
