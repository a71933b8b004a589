"""One batch of queries in one snapshot of a shard: parse, search within a limit of work, write the hits. No network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index.search import grouping
from index.search.cost import WorkLimit
from index.search.queries import ParsedQuery, parse_query
from index.search.segment import SearchTrace
from index.search.view import Hits, LimitedView, View, hit_positions
from lookalike.v1 import index_pb2, types_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import pack

# Of products in one response (a message has at most 32 MiB); queries without room get an error.
MAX_RESPONSE_BYTES = 24 << 20

Found = tuple[Hits, Sequence[int]]  # A ranking, and the positions of a query's hits in it.


class ShardSearch:
    """The response to a batch, and its queries that have none in it yet."""

    def __init__(
        self, view: View, dims: Mapping[Space.ValueType, int], queries: Sequence[index_pb2.ShardQuery]
    ) -> None:
        self.view = view
        self.response = index_pb2.ShardSearchResponse()
        self.pending: dict[int, ParsedQuery] = {}  # By position in the batch.
        self._free_bytes = MAX_RESPONSE_BYTES
        for i, query in enumerate(queries):
            message = self.response.results.add()
            try:
                self.pending[i] = parse_query(query, dims)
            except ValueError as error:
                message.error = str(error)

    def find(self, positions: Sequence[int], limit: WorkLimit) -> dict[int, Found]:
        """Search for pending queries, by position; left out is what needs more work than `limit` allows."""
        queries = [self.pending[i] for i in positions]
        results = grouping.widen_until_filled(queries, LimitedView(self.view, limit), hit_positions)
        return {i: found for i, found in zip(positions, results, strict=True) if found is not None}

    def write(self, results: Mapping[int, Found]) -> None:
        """Write the hits of these queries, which are pending no more."""
        for i, (ranking, positions) in results.items():
            hits = ranking if len(positions) == len(ranking.rows) else ranking.select(positions)
            message = self.response.results[i]
            self._free_bytes -= _write_hits(message, self.view, self.pending.pop(i), hits, self._free_bytes)


def _plan_message(trace: SearchTrace) -> types_pb2.SearchPlan:
    message = types_pb2.SearchPlan(space=trace.space, documents=trace.documents, matching=trace.matching)
    if (plan := trace.plan) is not None:
        message.recipe, message.depth = trace.recipe, plan.depth
        message.search_parameter, message.candidates = plan.operating_point.search_parameter, plan.candidates
    return message


def _write_hits(message: index_pb2.ShardHits, view: View, query: ParsedQuery, hits: Hits, free_bytes: int) -> int:
    """Write the hits to the message, or an error if their products are over `free_bytes`. Returns the bytes used."""
    products = hits.products
    size = sum(map(len, products))
    if size > free_bytes:
        message.error = f"the products of this batch have over {MAX_RESPONSE_BYTES} bytes"
        return 0
    message.ids.extend(hits.ids)
    message.scores = pack(hits.scores)
    message.products.extend(products)
    if query.max_per_shop:
        message.shops.extend(hits.shops)
    if query.explain:
        message.cosines = message.scores if len(query.vectors) == 1 else pack(view.cosines(query, hits.refs).T)
        message.plans.extend(map(_plan_message, hits.traces))
    return size
