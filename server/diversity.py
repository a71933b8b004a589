"""Choose hits that score well and are unlike each other: maximal marginal relevance. Pure: arrays in, positions out.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries"
(SIGIR 1998); their λ is 1 − `diversity` here, so that 0 keeps the order of the scores.
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

# Candidates per hit to choose from. Their vectors are fetched: 500 in 1024 dimensions are 2 MB.
CANDIDATES_PER_HIT = 5


def hit_vectors(hits: Sequence[FetchedProduct], spaces: Mapping[Space.ValueType, SpaceInfo], route: Route) -> F32:
    """(n, sum of dims): the inner product of two rows is the weighted mean of the hits' cosines in the route's spaces.

    As in a score, the cosine is 0 in a space where one of the two has no vector.
    """
    hit_spaces = [{each.space: each.vector for each in hit.vectors} for hit in hits]
    parts = []
    for space, share in zip(route.spaces, route.shares, strict=True):
        dim = spaces[space].dim
        rows = [unpack(each[space], dim)[0] if space in each else np.zeros(dim, np.float32) for each in hit_spaces]
        parts.append(np.float32(math.sqrt(share)) * np.stack(rows))
    return np.concatenate(parts, axis=1)


def diversify(scores: F32, vectors: F32, diversity: float, limit: int) -> list[int]:
    """The positions of `limit` hits, in the order in which they are chosen.

    scores (n,): of the hits, in their order; vectors (n, dim): the inner product of two rows is the similarity of the
    two hits. The next hit is the one with the highest (1 − diversity) · score − diversity · (its similarity to the most
    similar hit chosen before); ties go to the first in order.
    """
    relevance = (1 - diversity) * scores.astype(np.float64)
    chosen: list[int] = []
    max_similarity = np.zeros(len(scores))  # To the hits chosen so far: none yet.
    for count in range(min(limit, len(scores))):
        best = int(np.argmax(relevance - diversity * max_similarity))
        chosen.append(best)
        relevance[best] = -np.inf
        similarity = vectors @ vectors[best]
        max_similarity = np.maximum(max_similarity, similarity) if count else similarity.astype(np.float64)
    return chosen
