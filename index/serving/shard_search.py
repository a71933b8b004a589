"""One batch of queries in one snapshot of a shard: search within a limit of work, read the hits. No network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index.search import grouping
from index.search.cost import WorkLimit
from index.search.segment import SearchTrace
from index.search.view import Hits, LimitedView, View, hit_positions
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import types_pb2

# Of products in one response (a message has at most 32 MiB); queries without room get an error.
MAX_RESPONSE_BYTES = 24 << 20

Found = tuple[Hits, Sequence[int]]  # A ranking, and the positions of a query's hits in it.
_COSTLY = ShardHits(costly=True)


class ShardSearch:
    """The hits of a batch, and its queries that have none yet.

    queries: by position in the batch; an error stands for a query that is invalid.
    """

    def __init__(self, view: View, queries: Sequence[ShardQuery | ValueError]) -> None:
        self.view = view
        self._count = len(queries)
        self._results: dict[int, ShardHits] = {}  # By position in the batch, as those below.
        self.pending: dict[int, ShardQuery] = {}
        for i, query in enumerate(queries):
            if isinstance(query, ValueError):
                self._results[i] = ShardHits(error=str(query))
            else:
                self.pending[i] = query
        self._free_bytes = MAX_RESPONSE_BYTES
        self.searched: list[tuple[ShardQuery, Sequence[SearchTrace]]] = []  # What was read, and how it was found.

    @property
    def results(self) -> list[ShardHits]:
        """The hits of all queries, in order; those that are pending are costly ones, to be asked for again."""
        return [self._results.get(i, _COSTLY) for i in range(self._count)]

    def find(self, positions: Sequence[int], limit: WorkLimit) -> dict[int, Found]:
        """Search for pending queries, by position; left out is what needs more work than `limit` allows."""
        queries = [self.pending[i] for i in positions]
        results = grouping.widen_until_filled(queries, LimitedView(self.view, limit), hit_positions)
        return {i: found for i, found in zip(positions, results, strict=True) if found is not None}

    def read(self, found: Mapping[int, Found], cpu_s: float = 0.0) -> None:
        """Read the hits of these queries, which are pending no more; an exact one took so much CPU of shared passes."""
        for i, (ranking, positions) in found.items():
            hits = ranking if len(positions) == len(ranking.rows) else ranking.select(positions)
            query = self.pending.pop(i)
            self.searched.append((query, ranking.traces))
            read = self._read(query, hits)
            self._results[i] = read._replace(cpu_s=cpu_s) if cpu_s and query.exact else read

    def _read(self, query: ShardQuery, hits: Hits) -> ShardHits:
        """The hits, or an error if the batch has no room for their products."""
        products = hits.products
        size = sum(map(len, products))
        if size > self._free_bytes:
            return ShardHits(error=f"the products of this batch have over {MAX_RESPONSE_BYTES} bytes")
        self._free_bytes -= size
        ids = () if query.omit_ids else hits.ids
        shops = hits.shops if query.max_per_shop else ()
        if not query.explain:
            return ShardHits(ids, hits.scores, products, shops)
        cosines = hits.scores[:, None] if len(query.vectors) == 1 else self.view.cosines(query, hits.refs).T
        return ShardHits(ids, hits.scores, products, shops, cosines, [*map(_plan_message, hits.traces)])


def _plan_message(trace: SearchTrace) -> types_pb2.SearchPlan:
    message = types_pb2.SearchPlan(space=trace.space, documents=trace.documents, matching=trace.matching)
    if (plan := trace.plan) is not None:
        message.recipe, message.depth = trace.recipe, plan.depth
        message.search_parameter, message.candidates = plan.operating_point.search_parameter, plan.candidates
    return message
