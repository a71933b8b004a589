"""Merge the shards' hits into one answer. Pure: serialized hits in, the serialized answer's hits out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

import numpy as np

from protos.lookalike.v1.index_pb2 import OpaqueHit, ShardHits


def merged(shards: Iterable[ShardHits], limit: int, without: Collection[str]) -> list[OpaqueHit]:
    """The best `limit` hits by (falling score, rising id), leaving out the ids in `without`.

    Ids are compared as Unicode code points, which is the order of their UTF-8 bytes.
    """
    best: list[tuple[float, str, bytes]] = []
    for hits in shards:
        scores = np.frombuffer(hits.scores, dtype="<f4").tolist()
        best += zip([-score for score in scores], hits.ids, hits.products, strict=True)
    best.sort()
    kept = (hit for hit in best if hit[1] not in without)
    return [OpaqueHit(product=product, score=-negated) for negated, _, product in islice(kept, limit)]
