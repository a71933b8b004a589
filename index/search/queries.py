"""What a ShardQuery asks, once it has been checked. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from index.search import fusion
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32

# Over-fetching included: a gateway asks for at most 1,000 hits and 16 examples.
MAX_K = 4096
_NORM_TOLERANCE = 1e-3


class Query(NamedTuple):
    vectors: dict[Space.ValueType, F32]  # One at least; each (dim,) of unit norm, in the order of the query.
    shares: tuple[float, ...]  # Of each vector's cosine in a score; they sum to 1.
    filter: bytes  # Serialized; empty: everything passes.
    k: int
    exact: bool
    explain: bool
    without: frozenset[str] = frozenset()  # Ids.
    min_score: float = -math.inf
    max_per_shop: int = 0  # 0: any number.


def parsed(query: index_pb2.ShardQuery, dims: Mapping[Space.ValueType, int]) -> Query:
    """dims: of the spaces there are. Raises ValueError with what is wrong with the query."""
    if query.k + len(query.exclude_ids) > MAX_K:
        raise ValueError(f"k is {query.k}, without {len(query.exclude_ids)} ids; together at most {MAX_K} may be")
    if math.isnan(query.min_score):
        raise ValueError("min_score is no number")
    given = list(query.vectors)
    vectors = {each.space: _vector_of(each, dims) for each in given}
    if not vectors:
        raise ValueError("no vector")
    condition = query.filter.SerializeToString(deterministic=True) if query.HasField("filter") else b""
    return Query(
        vectors=vectors,
        shares=_shares_of(given),
        filter=condition,
        k=query.k,
        exact=query.exact,
        explain=query.explain,
        without=frozenset(query.exclude_ids) if query.exclude_ids else frozenset(),
        min_score=query.min_score if query.HasField("min_score") else -math.inf,
        max_per_shop=query.max_per_shop,
    )


def _vector_of(given: index_pb2.QueryVector, dims: Mapping[Space.ValueType, int]) -> F32:
    if (dim := dims.get(given.space)) is None:
        raise ValueError(f"no space {given.space} here")
    data = given.vector
    if len(data) != 4 * dim:
        raise ValueError(f"a vector of {len(data)} bytes in a space of {dim} dimensions")
    vector: F32 = np.frombuffer(data, dtype="<f4")
    # Written so that NaN and infinity fail too.
    if not abs(float(vector.dot(vector)) - 1) <= _NORM_TOLERANCE:
        raise ValueError("the vector is not of unit norm")
    return vector


def _shares_of(given: Sequence[index_pb2.QueryVector]) -> tuple[float, ...]:
    if len(given) == 1:
        return (1.0,)
    weights: dict[Space.ValueType, float] = {}
    for each in given:
        if each.space in weights:
            raise ValueError(f"two vectors of space {each.space}")
        if not 0 < each.weight < math.inf:
            raise ValueError(f"the weight of space {each.space} is {each.weight}, not a finite number above 0")
        weights[each.space] = each.weight
    return fusion.shares(list(weights.values()))
