"""Check a message ShardQuery and parse it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from index.search import fusion
from lookalike.shard_query import ShardQuery
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32

# With over-fetching: a gateway requests at most 1,000 hits and excludes at most 16 examples.
MAX_K = 4096
_NORM_TOLERANCE = 1e-3


def parse_query(query: index_pb2.ShardQuery, dims: Mapping[Space.ValueType, int]) -> ShardQuery:
    """Parse a query; `dims` maps each space of the shard to its dimension. Raises ValueError with what is wrong."""
    if query.k + len(query.exclude_ids) > MAX_K:
        raise ValueError(f"k ({query.k}) plus the number of exclude_ids ({len(query.exclude_ids)}) is over {MAX_K}")
    if math.isnan(query.min_score):
        raise ValueError("min_score is not a number")
    vectors = {vector.space: _parse_vector(vector, dims) for vector in query.vectors}
    if not vectors:
        raise ValueError("the query has no vector")
    condition = query.filter.SerializeToString(deterministic=True) if query.HasField("filter") else b""
    return ShardQuery(
        vectors=vectors,
        weights=_parse_weights(query.vectors),
        filter=condition,
        k=query.k,
        exact=query.exact,
        explain=query.explain,
        exclude_ids=frozenset(query.exclude_ids) if query.exclude_ids else frozenset(),
        min_score=query.min_score if query.HasField("min_score") else -math.inf,
        max_per_shop=query.max_per_shop,
        omit_ids=query.omit_ids,
    )


def _parse_vector(query_vector: index_pb2.QueryVector, dims: Mapping[Space.ValueType, int]) -> F32:
    if (dim := dims.get(query_vector.space)) is None:
        raise ValueError(f"this shard has no space {query_vector.space}")
    data = query_vector.vector
    if len(data) != 4 * dim:
        raise ValueError(f"the vector has {len(data)} bytes, expected {4 * dim} ({dim} dimensions)")
    vector: F32 = np.frombuffer(data, dtype="<f4")
    # Written so that NaN and infinity fail too.
    if not abs(float(vector.dot(vector)) - 1) <= _NORM_TOLERANCE:
        raise ValueError("the vector is not of unit norm")
    return vector


def _parse_weights(vectors: Sequence[index_pb2.QueryVector]) -> tuple[float, ...]:
    if len(vectors) == 1:
        return (1.0,)
    weights: dict[Space.ValueType, float] = {}
    for vector in vectors:
        if vector.space in weights:
            raise ValueError(f"the query has two vectors of space {vector.space}")
        if not 0 < vector.weight < math.inf:
            raise ValueError(f"the weight of space {vector.space} is {vector.weight}, expected a finite number above 0")
        weights[vector.space] = vector.weight
    return fusion.normalise_weights(list(weights.values()))
