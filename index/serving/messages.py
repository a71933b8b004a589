"""The messages of a search between processes: queries parsed and checked, hits written. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from index.search.queries import parse_query
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import pack


def parse_queries(
    queries: Iterable[index_pb2.ShardQuery], dims: Mapping[Space.ValueType, int]
) -> list[ShardQuery | ValueError]:
    """Each query, or what is wrong with it; `dims` maps each space of the shard to its dimension."""
    return [_parsed(query, dims) for query in queries]


def _parsed(query: index_pb2.ShardQuery, dims: Mapping[Space.ValueType, int]) -> ShardQuery | ValueError:
    try:
        return parse_query(query, dims)
    except ValueError as error:
        return error


def search_response(results: Sequence[ShardHits]) -> index_pb2.ShardSearchResponse:
    response = index_pb2.ShardSearchResponse()
    for hits in results:
        message = response.results.add(error=hits.error, costly=hits.costly, scores=pack(hits.scores), cpu_s=hits.cpu_s)
        message.ids.extend(hits.ids)
        message.products.extend(hits.products)
        message.shops.extend(hits.shops)
        message.plans.extend(hits.plans)
        if hits.cosines is not None:
            message.cosines = pack(hits.cosines)
    return response
