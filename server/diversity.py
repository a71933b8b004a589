"""Hits that are good and unlike each other: maximal marginal relevance. Pure: arrays in, places out.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries"
(SIGIR 1998); their λ is 1 − `diversity` here, so that nothing changes at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lookalike.v1.index_pb2 import FetchedProduct
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, unpack
from server.policy import Route
from server.topology import SpaceInfo

# So many times as many hits as are wanted are chosen among. Their vectors are fetched: of 500 in 1024-d, 2 MB.
POOL = 5


def vectors_of(hits: Sequence[FetchedProduct], spaces: Mapping[Space.ValueType, SpaceInfo], route: Route) -> F32:
    """(n, sum of dims): the inner product of two rows is the weighted mean of the hits' cosines in the route's spaces.

    As in a score, a cosine is 0 in a space where one of them has no vector.
    """
    given = [{each.space: each.vector for each in hit.vectors} for hit in hits]
    parts = []
    for space, share in zip(route.spaces, route.shares, strict=True):
        dim = spaces[space].dim
        rows = [unpack(vectors[space], dim)[0] if space in vectors else np.zeros(dim, np.float32) for vectors in given]
        parts.append(np.float32(math.sqrt(share)) * np.stack(rows))
    return np.concatenate(parts, axis=1)


def diversified(scores: F32, vectors: F32, diversity: float, limit: int) -> list[int]:
    """The places of `limit` hits, as they are chosen one after the other.

    scores (n,): of the hits in their order; vectors (n, dim): their inner products say how similar two are. The next is
    the hit of the highest (1 − diversity) · score − diversity · its similarity to the most similar one before it; of
    equals the first in order.
    """
    worth = (1 - diversity) * scores.astype(np.float64)
    chosen: list[int] = []
    nearest = np.zeros(len(scores))  # To what was chosen: nothing yet.
    for count in range(min(limit, len(scores))):
        place = int(np.argmax(worth - diversity * nearest))
        chosen.append(place)
        worth[place] = -np.inf
        similar = vectors @ vectors[place]
        nearest = np.maximum(nearest, similar) if count else similar.astype(np.float64)
    return chosen
