"""Merge the shards' hits into one ranking. Pure: serialized hits in, the serialized answer's hits out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lookalike.runtime.grouping import limit_per_shop
from lookalike.v1.index_pb2 import OpaqueHit, ShardHits
from lookalike.v1.types_pb2 import Space, SpaceScore


class Hit(NamedTuple):
    """In the order of a ranking: by falling score, equal scores by rising id."""

    negated: float  # The score, so that better hits are smaller.
    id: str
    product: bytes  # Serialized.
    cosines: Sequence[float]  # In each space, where they are explained.
    shop: str  # Where shops count.

    def opaque(self, explained: Sequence[Space.ValueType]) -> OpaqueHit:
        scores = [SpaceScore(space=space, score=cosine) for space, cosine in zip(explained, self.cosines, strict=True)]
        return OpaqueHit(product=self.product, score=-self.negated, scores=scores)


def merged(shards: Iterable[ShardHits], limit: int, *, max_per_shop: int = 0, explained: int = 0) -> list[Hit]:
    """The best `limit` hits by (falling score, rising id), at most `max_per_shop` of one shop (0: any number).

    explained: the spaces that the shards told each hit's cosines of; none unless they were asked to.
    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    best: list[Hit] = []
    for hits in shards:
        count = len(hits.ids)
        negated = [-score for score in np.frombuffer(hits.scores, dtype="<f4").tolist()]
        cosines: Sequence[Sequence[float]] = _cosines(hits, explained) if explained else [()] * count
        shops: Sequence[str] = hits.shops if max_per_shop else [""] * count
        best += map(Hit._make, zip(negated, hits.ids, hits.products, cosines, shops, strict=True))
    best.sort()
    if max_per_shop:
        return [best[place] for place in limit_per_shop((hit.shop for hit in best), max_per_shop, limit)]
    return best[:limit]


def _cosines(hits: ShardHits, spaces: int) -> list[list[float]]:
    """For each hit one cosine per space."""
    rows: list[list[float]] = np.frombuffer(hits.cosines, dtype="<f4").reshape(-1, spaces).tolist()
    return rows
