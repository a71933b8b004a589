"""Merge the hits of all shards into one ranking. Pure; products stay serialized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.runtime.grouping import limit_per_shop
from lookalike.v1.index_pb2 import OpaqueHit, ShardHits
from lookalike.v1.types_pb2 import Space, SpaceScore


@dataclass(frozen=True, slots=True)
class Ranking:
    """Hits by falling score, equal scores by rising id; each list has one entry per hit, in that order."""

    ids: Sequence[str]
    scores: Sequence[float]
    products: Sequence[bytes]  # Serialized.
    cosines: Sequence[Sequence[float]]  # Of each hit, one per searched space; empty unless the query has `explain`.

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: Sequence[int]) -> Ranking:
        """The hits at these positions, in that order."""
        return Ranking(
            [self.ids[i] for i in positions],
            [self.scores[i] for i in positions],
            [self.products[i] for i in positions],
            [self.cosines[i] for i in positions] if self.cosines else (),
        )

    def first(self, limit: int) -> Ranking:
        return self if len(self) <= limit else self.select(range(limit))

    def opaque(self, explained_spaces: Sequence[Space.ValueType]) -> list[OpaqueHit]:
        """Messages that have the wire format of `Hit`, with the products still serialized."""
        hits = [OpaqueHit(product=p, score=s) for p, s in zip(self.products, self.scores, strict=True)]
        for hit, cosines in zip(hits, self.cosines, strict=False):  # There are none unless the query has `explain`.
            for space, cosine in zip(explained_spaces, cosines, strict=True):
                hit.scores.append(SpaceScore(space=space, score=cosine))
        return hits


def merge_hits(shards: Sequence[ShardHits], limit: int, *, max_per_shop: int = 0, explained_spaces: int = 0) -> Ranking:
    """The best `limit` hits by (falling score, rising id), at most `max_per_shop` of one shop (0: any number).

    shards: the hits of each, in that order; of one shard alone they are the ranking.
    explained_spaces: how many spaces the shards give each hit's cosines for; 0 unless the query asks for them.
    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    rankings = [_ranking(hits, explained_spaces) for hits in shards]
    if len(rankings) == 1:
        return rankings[0].first(limit)
    together = Ranking(
        [id for each in rankings for id in each.ids],
        [score for each in rankings for score in each.scores],
        [product for each in rankings for product in each.products],
        [cosines for each in rankings for cosines in each.cosines],
    )
    negated_scores = [-score for score in together.scores]
    order = [i for *_, i in sorted(zip(negated_scores, together.ids, range(len(together)), strict=True))]
    if not max_per_shop:
        return together.select(order[:limit])
    shops = [shop for hits in shards for shop in hits.shops]
    return together.select([order[i] for i in limit_per_shop((shops[i] for i in order), max_per_shop, limit)])


def _ranking(hits: ShardHits, explained_spaces: int) -> Ranking:
    scores: list[float] = np.frombuffer(hits.scores, dtype="<f4").tolist()
    cosines: list[list[float]] = []
    if explained_spaces:
        cosines = np.frombuffer(hits.cosines, dtype="<f4").reshape(-1, explained_spaces).tolist()
    return Ranking(hits.ids, scores, hits.products, cosines)
