"""A snapshot of all products of a shard: its segments, each product in at most one. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from index.search import grouping, shop_codes
from index.search.cost import UNLIMITED, WorkLimit
from index.search.segment import SearchTrace, Segment, SegmentHits
from lookalike.shard_query import ShardQuery
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, I64

Value = TypeVar("Value")


class DocumentRef(NamedTuple):
    """Reference to a product: its segment and row. Valid in the view that it comes from."""

    segment: Segment
    row: int

    @property
    def id(self) -> str:
        return self.segment.table.ids.text(self.row)

    @property
    def product(self) -> bytes:
        """Serialized, without its description."""
        return self.segment.table.products[self.row]

    @property
    def description(self) -> str:
        return self.segment.table.description(self.row)

    def whole_product(self) -> Product:
        """With its description."""
        product = Product.FromString(self.product)
        product.description = self.description
        return product

    def vector(self, number: Space.ValueType) -> F32 | None:
        return self.segment.spaces[number].vector(self.row)


class Hits(NamedTuple):
    """Hits of one query, by falling score, equal scores by rising id. Ids and products are read on access."""

    segments: Sequence[Segment]
    segment_indices: I64 | None  # The segment of each hit; None: all are of the first.
    rows: I64
    scores: F32
    traces: tuple[SearchTrace, ...]  # One for each segment and each of the query's spaces.

    @property
    def ids(self) -> list[str]:
        return self._read(Segment.ids)

    @property
    def products(self) -> list[bytes]:
        """Serialized, without their descriptions."""
        return self._read(Segment.products)

    @property
    def shops(self) -> list[str]:
        """Empty where a product has none."""
        return self._read(Segment.shops)

    @property
    def refs(self) -> list[DocumentRef]:
        return self._read(lambda segment, rows: [DocumentRef(segment, row) for row in rows.tolist()])

    def select(self, positions: Sequence[int]) -> Hits:
        """The hits at these positions of the ranking, in that order."""
        at = [*positions]
        segment_indices = None if self.segment_indices is None else self.segment_indices[at]
        return Hits(self.segments, segment_indices, self.rows[at], self.scores[at], self.traces)

    def _read(self, read: Callable[[Segment, I64], list[Value]]) -> list[Value]:
        """Read a value of each hit, segment by segment; returns them in the order of the hits."""
        if self.segment_indices is None:
            return read(self.segments[0], self.rows)
        values = [iter(read(segment, self.rows[self.segment_indices == i])) for i, segment in enumerate(self.segments)]
        return [next(values[i]) for i in self.segment_indices.tolist()]


def hit_positions(query: ShardQuery, ranking: Hits) -> Sequence[int]:
    """Positions of the query's hits in a ranking."""
    ids = ranking.ids if query.exclude_ids else []
    shops = ranking.shops if query.max_per_shop else []
    return grouping.select_hits(query, ranking.scores, ids.__getitem__, shops.__getitem__)


class View:
    """All products of a shard at one moment. Immutable and thread-safe: a write makes another view."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def vector_count(self, number: Space.ValueType) -> int:
        return sum(segment.vector_count(number) for segment in self.segments)

    def find(self, product_id: str) -> DocumentRef | None:
        for segment in self.segments:
            if (row := segment.find(product_id.encode())) is not None:
                return DocumentRef(segment, row)
        return None

    def nearest(self, queries: Sequence[ShardQuery]) -> list[Hits]:
        """The k best of each query."""
        return [hits for hits in LimitedView(self, UNLIMITED).nearest(queries) if hits is not None]  # All are.

    def merge(self, per_segment: Sequence[SegmentHits], k: int | None = None) -> Hits:
        """The k best hits of all segments, or all, equal scores by rising id."""
        k = sum(len(hits.rows) for hits in per_segment) if k is None else k
        if len(per_segment) == 1 and self.segments[0].table.order is None:
            return Hits(self.segments, None, *per_segment[0])
        scores = np.concatenate([hits.scores for hits in per_segment])
        rows = np.concatenate([hits.rows for hits in per_segment])
        segment_indices = np.repeat(np.arange(len(per_segment)), [len(hits.rows) for hits in per_segment])
        kth_score = np.partition(scores, len(scores) - k)[len(scores) - k] if 0 < k < len(scores) else -np.inf
        kept = scores >= kth_score
        traces = tuple(trace for hits in per_segment for trace in hits.traces)
        merged = Hits(self.segments, segment_indices[kept], rows[kept], scores[kept], traces)
        order = sorted(zip((-merged.scores).tolist(), merged.ids, range(len(merged.rows)), strict=True))
        return merged.select([position for *_, position in order[:k]])

    def cosines(self, query: ShardQuery, refs: Sequence[DocumentRef]) -> F32:
        """Cosines (s, c) of the query with each of the products, in each of its spaces."""
        cosines = np.zeros((len(query.vectors), len(refs)), dtype=np.float32)
        for segment in self.segments:
            at = [i for i, ref in enumerate(refs) if ref.segment is segment]
            cosines[:, at] = segment.cosines(query, np.array([refs[i].row for i in at], dtype=np.int64))
        return cosines

    def count(self, condition: bytes) -> int:
        """How many products pass the serialized filter."""
        return sum(segment.count(condition) for segment in self.segments)

    def page(self, condition: bytes, after: str, size: int) -> list[tuple[str, DocumentRef]]:
        """At most `size` products that pass, with ids greater than `after`, by rising id; empty: there are no more."""
        pages = [
            [DocumentRef(segment, row) for row in segment.page(condition, after, size)] for segment in self.segments
        ]
        return sorted((ref.id, ref) for page in pages for ref in page)[:size]


class LimitedView(NamedTuple):
    """Searches a view, within a limit of work: None stands for hits that it does not allow to find."""

    view: View
    limit: WorkLimit

    def nearest(self, queries: Sequence[ShardQuery]) -> list[Hits | None]:
        """The k best of each query. Each segment is searched for k: one of them may hold all."""
        per_segment = [_nearest(segment, queries, self.limit) for segment in self.view.segments]
        return [
            self._merge([segment_hits[i] for segment_hits in per_segment], query.k) for i, query in enumerate(queries)
        ]

    def max_hits(self, query: ShardQuery) -> int:
        """How many hits can exist at any score, at most `max_per_shop` of a shop; k if there are more."""
        tables = ((segment.shop_codes, segment.eligible(query)) for segment in self.view.segments)
        return shop_codes.max_hits(tables, query.max_per_shop, query.k)

    def best_per_shop(self, query: ShardQuery) -> Hits | None:
        """The exact best of each shop, and of those without one; they include the k hits, or all that exist."""
        return self._merge([segment.best_per_shop(query, self.limit) for segment in self.view.segments])

    def _merge(self, per_segment: Sequence[SegmentHits | None], k: int | None = None) -> Hits | None:
        known = [hits for hits in per_segment if hits is not None]
        return self.view.merge(known, k) if len(known) == len(per_segment) else None


def _nearest(segment: Segment, queries: Sequence[ShardQuery], limit: WorkLimit) -> list[SegmentHits | None]:
    if segment.table.order is None:
        return segment.nearest(queries, limit)
    return [_with_ties(segment, query, limit) for query in queries]


def _with_ties(segment: Segment, query: ShardQuery, limit: WorkLimit) -> SegmentHits | None:
    """The k nearest and all tied with the k-th, for a table whose rows do not rise with the ids, which break ties."""
    depth = query.k + 1
    while True:
        (hits,) = segment.nearest([query._replace(k=depth)], limit)
        if hits is None or len(hits.rows) < depth or not query.k or hits.scores[-1] < hits.scores[query.k - 1]:
            return hits
        depth *= 2
