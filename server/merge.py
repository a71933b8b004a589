"""Merge the hits of all shards into one ranking. Pure; products stay serialized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lookalike.runtime.grouping import limit_per_shop
from lookalike.v1.index_pb2 import OpaqueHit, ShardHits
from lookalike.v1.types_pb2 import Space, SpaceScore


class RankedHit(NamedTuple):
    """A hit. Sorting hits ranks them: by falling score, equal scores by rising id."""

    negated_score: float  # Negated, so that better hits are smaller.
    id: str
    product: bytes  # Serialized.
    cosines: Sequence[float]  # One per searched space; empty unless the query asks for them (`explain`).
    shop: str  # Empty unless hits of one shop are limited.

    @property
    def score(self) -> float:
        return -self.negated_score

    def opaque(self, explained_spaces: Sequence[Space.ValueType]) -> OpaqueHit:
        """The hit as a message that has the wire format of `Hit`, with the product still serialized."""
        scores = [
            SpaceScore(space=space, score=cosine) for space, cosine in zip(explained_spaces, self.cosines, strict=True)
        ]
        return OpaqueHit(product=self.product, score=self.score, scores=scores)


def merge_hits(
    shards: Iterable[ShardHits], limit: int, *, max_per_shop: int = 0, explained_spaces: int = 0
) -> list[RankedHit]:
    """The best `limit` hits by (falling score, rising id), at most `max_per_shop` of one shop (0: any number).

    explained_spaces: how many spaces the shards give each hit's cosines for; 0 unless the query asks for them.
    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    best: list[RankedHit] = []
    for hits in shards:
        count = len(hits.ids)
        negated_scores = [-score for score in np.frombuffer(hits.scores, dtype="<f4").tolist()]
        cosines: Sequence[Sequence[float]] = _cosines(hits, explained_spaces) if explained_spaces else [()] * count
        shops: Sequence[str] = hits.shops if max_per_shop else [""] * count
        best += map(RankedHit._make, zip(negated_scores, hits.ids, hits.products, cosines, shops, strict=True))
    best.sort()
    if max_per_shop:
        return [best[i] for i in limit_per_shop((hit.shop for hit in best), max_per_shop, limit)]
    return best[:limit]


def _cosines(hits: ShardHits, spaces: int) -> list[list[float]]:
    """The cosine of each hit in each space: one list per hit."""
    rows: list[list[float]] = np.frombuffer(hits.cosines, dtype="<f4").reshape(-1, spaces).tolist()
    return rows
