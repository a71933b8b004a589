"""A query to one shard and its hits, as gateway and shard pass them to each other. Pure: plain values.

In one process they are passed as they are, without a message between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lookalike.v1.types_pb2 import SearchPlan, Space
from lookalike.vectors import F32

_NO_SCORES: F32 = np.empty(0, dtype=np.float32)


class ShardQuery(NamedTuple):
    """A checked query."""

    vectors: Mapping[Space.ValueType, F32]  # One at least; each (dim,) of unit norm, in the order of the query.
    weights: tuple[float, ...]  # Of each vector's cosine in a score; they sum to 1.
    filter: bytes  # A serialized Filter, equal for equal filters; empty: everything passes.
    k: int
    exact: bool
    explain: bool
    exclude_ids: frozenset[str] = frozenset()
    min_score: float = -math.inf
    max_per_shop: int = 0  # 0: no limit.
    omit_ids: bool = False  # Whether the hits need no ids.


class ShardHits(NamedTuple):
    """The hits of one query, by falling score, equal scores by rising id; sequences have one entry per hit."""

    ids: Sequence[str] = ()  # Empty with `omit_ids`.
    scores: F32 = _NO_SCORES  # (c,)
    products: Sequence[bytes] = ()  # Serialized, without their descriptions.
    shops: Sequence[str] = ()  # With `max_per_shop`: the shop of each product, or "".
    cosines: F32 | None = None  # (c, s), with `explain`: of each hit, in each of the query's spaces.
    plans: Sequence[SearchPlan] = ()  # With `explain`, of each segment and space; `shard` is not set.
    costly: bool = False  # The query needs more work than was allowed, and was not answered.
    error: str = ""  # Why this query failed; empty: it did not.
    cpu_s: float = 0.0  # Of an exact search that shared passes over the vectors: its share of their CPU; else 0.
