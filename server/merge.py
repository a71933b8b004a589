"""Merge the hits of all shards into one ranking. Pure; products stay serialized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from lookalike.runtime.grouping import limit_per_shop
from lookalike.shard_query import ShardHits
from lookalike.v1.search_pb2 import Hit
from lookalike.v1.types_pb2 import Space, SpaceScore
from lookalike.vectors import F32
from server.wire import encode_hits


@dataclass(frozen=True, slots=True)
class Ranking:
    """Hits by falling score, equal scores by rising id; all have one entry per hit, in that order."""

    ids: Sequence[str]  # Empty where nothing needs them.
    scores: F32  # (c,)
    products: Sequence[bytes]  # Serialized.
    cosines: F32 | None = None  # (c, s), of each hit and searched space; None unless the query has `explain`.

    def __len__(self) -> int:
        return len(self.products)

    def select(self, positions: Sequence[int]) -> Ranking:
        """The hits at these positions, in that order."""
        at = [*positions]
        return Ranking(
            [self.ids[i] for i in at] if self.ids else (),
            self.scores[at],
            [self.products[i] for i in at],
            None if self.cosines is None else self.cosines[at],
        )

    def first(self, limit: int) -> Ranking:
        return self if len(self) <= limit else self.select(range(limit))

    def encoded(self, spaces: Sequence[Space.ValueType], contributions: Sequence[bytes] = ()) -> bytes:
        """The hits of a SearchResponse, serialized.

        spaces: those of the cosines. contributions: with cosines, the serialized field of each of the first hits.
        """
        if self.cosines is None:
            return encode_hits(self.products, self.scores)
        scores = (_space_scores(spaces, each) for each in self.cosines.tolist())
        more_fields = [b"".join(fields) for fields in zip_longest(scores, contributions, fillvalue=b"")]
        return encode_hits(self.products, self.scores, more_fields)


def merge_hits(shards: Sequence[ShardHits], limit: int, *, max_per_shop: int = 0) -> Ranking:
    """The best `limit` hits by (falling score, rising id), at most `max_per_shop` of one shop (0: any number).

    shards: the hits of each, in that order; of one shard alone they are the ranking.
    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    if len(shards) == 1:
        (hits,) = shards
        return Ranking(hits.ids, hits.scores, hits.products, hits.cosines).first(limit)
    ids, products = [*chain(*(hits.ids for hits in shards))], [*chain(*(hits.products for hits in shards))]
    scores = np.concatenate([hits.scores for hits in shards])
    explained = [hits.cosines for hits in shards if hits.cosines is not None]
    together = Ranking(ids, scores, products, np.concatenate(explained) if explained else None)
    ranked = sorted(zip((-scores).tolist(), ids, range(len(ids)), strict=True))
    if not max_per_shop:
        return together.select([i for _, _, i in ranked[:limit]])
    order, shops = [i for _, _, i in ranked], [*chain(*(hits.shops for hits in shards))]
    return together.select([order[i] for i in limit_per_shop((shops[i] for i in order), max_per_shop, limit)])


def _space_scores(spaces: Sequence[Space.ValueType], cosines: Sequence[float]) -> bytes:
    """The field `scores` of a hit, serialized."""
    scores = (SpaceScore(space=space, score=cosine) for space, cosine in zip(spaces, cosines, strict=True))
    return Hit(scores=scores).SerializeToString()
