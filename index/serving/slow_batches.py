"""The log of slow batches of a shard: how each query was planned, by the shape of its filter. Logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from index.search.segment import SearchTrace
from index.serving.shard_search import ShardSearch
from index.serving.shard_version import ShardVersion
from lookalike.runtime.slow_log import SlowLog, shape_of
from lookalike.shard_query import ShardQuery
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import Filter

_MAX_QUERIES = 8  # Of a batch, in one entry.


def log_slow(slow: SlowLog, search: ShardSearch, shard: ShardVersion, *, waited_s: float, took_s: float) -> None:
    """Log a batch of searches that waited so long for a thread, and took so long on it, if that was slow."""
    if waited_s + took_s < slow.threshold_s:
        return
    queries = [_query(query, traces) for query, traces in search.searched[:_MAX_QUERIES]]
    slow.write(
        "slow batch",
        {
            "version": shard.manifest.version,
            "shard": shard.shard,
            "queue_s": round(waited_s, 4),
            "search_s": round(took_s, 4),
            "batch": len(search.results),
            "costly": len(search.pending),
            "queries": queries,
        },
    )


def _query(query: ShardQuery, traces: Iterable[SearchTrace]) -> dict[str, Any]:
    return {
        "spaces": [space_name(number) for number in query.vectors],
        "k": query.k,
        "exact": query.exact,
        "max_per_shop": query.max_per_shop,
        "filter": shape_of(Filter.FromString(query.filter)),
        "plans": [_plan(trace) for trace in traces],
    }


def _plan(trace: SearchTrace) -> dict[str, Any]:
    plan = {"space": space_name(trace.space), "documents": trace.documents, "matching": trace.matching}
    if trace.plan is None:
        return {**plan, "search": "exact"}
    point = trace.plan.operating_point
    return {
        **plan,
        "search": trace.recipe,
        "depth": trace.plan.depth,
        "search_parameter": point.search_parameter,
        "candidates": trace.plan.candidates,
    }
