"""A snapshot of all products of a shard: its segments, each product in at most one. Reads memory-mapped files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from index.backends.vector_index import VectorIndex
from index.search import grouping, shop_codes
from index.search.cost import UNLIMITED, WorkLimit
from index.search.joint_search import JointSearch
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

    def count_of(self, segment_index: int) -> int:
        """How many of the hits are of that segment."""
        if self.segment_indices is None:
            return len(self.rows)
        return int(np.count_nonzero(self.segment_indices == segment_index))

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

    def __init__(
        self, segments: Sequence[Segment], joint_indexes: Mapping[Space.ValueType, VectorIndex] | None = None
    ) -> None:
        """joint_indexes: of the vectors of the first two segments together, by space, as `JointSearch` takes them."""
        self.segments = segments
        self.joint_indexes = joint_indexes
        self.joint_search = JointSearch(segments[0], segments[1], joint_indexes) if joint_indexes else None
        self._shares: dict[Space.ValueType, Sequence[float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def vector_count(self, number: Space.ValueType) -> int:
        return sum(segment.vector_count(number) for segment in self.segments)

    def shares(self, query: ShardQuery) -> Sequence[float]:
        """The share of each segment in the vectors that a query of one vector is compared with, filters aside."""
        number = next(iter(query.vectors))
        if (shares := self._shares.get(number)) is None:
            counts = [segment.vector_count(number) for segment in self.segments]
            total = max(1, sum(counts))
            # Rows of a delta do not rise with the ids, which break ties, and are compared one by one in any case.
            shares = self._shares[number] = [
                1.0 if segment.table.order is not None else count / total
                for segment, count in zip(self.segments, counts, strict=True)
            ]
        return shares

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
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        if (falling[:k] == falling[1 : k + 1]).any() if len(order) > k else (falling[1:] == falling[:-1]).any():
            order = self._order_with_ties(segment_indices, rows, scores, falling[: k + 1][-1])
        best = order[:k]
        traces = tuple(trace for hits in per_segment for trace in hits.traces)
        return Hits(self.segments, segment_indices[best], rows[best], scores[best], traces)

    def _order_with_ties(self, segment_indices: I64, rows: I64, scores: F32, lowest: float) -> I64:
        """The positions of those not below the lowest score, by falling score, equal ones by rising id."""
        kept = np.flatnonzero(scores >= lowest)
        ids = Hits(self.segments, segment_indices[kept], rows[kept], scores[kept], ()).ids
        ranked = sorted(zip((-scores[kept]).tolist(), ids, kept.tolist(), strict=True))
        return np.array([position for *_, position in ranked], dtype=np.int64)

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
        """The k best of each query.

        A segment is searched first for as many as it has by its share of the vectors, with a margin; one that turns
        out to hold more of the k best is searched again for k.
        """
        if len(self.view.segments) == 1:
            found_alone = _nearest(self.view.segments[0], queries, self.limit)
            return [self._merge([hits], query.k) for hits, query in zip(found_alone, queries, strict=True)]
        joint_search, per_segment = self.view.joint_search, []
        of_two = [None] * len(queries) if joint_search is None else joint_search.nearest(queries, self.limit)
        shares = [self.view.shares(query) for query in queries]
        for number, segment in enumerate(self.view.segments):
            found: list[SegmentHits | None] = [hits[number] if number < 2 and hits else None for hits in of_two]
            depths = {
                i: _first_depth(query, shares[i][number])
                for i, query in enumerate(queries)
                if number > 1 or of_two[i] is None
            }
            self._search(segment, queries, depths, found)
            per_segment.append((found, depths))
        merged = [self._merge([found[i] for found, _ in per_segment], query.k) for i, query in enumerate(queries)]
        for number, (segment, (found, depths)) in enumerate(zip(self.view.segments, per_segment, strict=True)):
            too_shallow = {
                i: queries[i].k
                for i, depth in depths.items()
                if depth < queries[i].k and (hits := merged[i]) is not None and hits.count_of(number) >= depth
            }
            self._search(segment, queries, too_shallow, found)
            for i in too_shallow:
                merged[i] = self._merge([found[i] for found, _ in per_segment], queries[i].k)
        return merged

    def _search(
        self,
        segment: Segment,
        queries: Sequence[ShardQuery],
        depths: Mapping[int, int],
        found: list[SegmentHits | None],
    ) -> None:
        """Search for as many as `depths` has, by the position of the query."""
        if depths:
            deep = [
                queries[i] if queries[i].k == depth else queries[i]._replace(k=depth) for i, depth in depths.items()
            ]
            for i, hits in zip(depths, _nearest(segment, deep, self.limit), strict=True):
                found[i] = hits

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
    return _with_ties(segment, queries, limit)


def _with_ties(segment: Segment, queries: Sequence[ShardQuery], limit: WorkLimit) -> list[SegmentHits | None]:
    """The k nearest and all tied with the k-th, for a table whose rows do not rise with the ids, which break ties."""
    results: list[SegmentHits | None] = [None] * len(queries)
    depths = {i: query.k + 1 for i, query in enumerate(queries)}
    while depths:
        deeper = [queries[i]._replace(k=depth) for i, depth in depths.items()]
        tied = {}
        for (i, depth), hits in zip(depths.items(), segment.nearest(deeper, limit), strict=True):
            results[i], k = hits, queries[i].k
            if hits is not None and k and len(hits.rows) == depth and hits.scores[-1] == hits.scores[k - 1]:
                tied[i] = 2 * depth
        depths = tied
    return results


def _first_depth(query: ShardQuery, share: float) -> int:
    """How many of the k best a segment with that share of the vectors is searched for first: it holds more in 1 %."""
    if query.exact or len(query.vectors) > 1:
        return query.k
    expected = query.k * share
    return min(query.k, math.ceil(expected + 2 * math.sqrt(expected * (1 - share))) + 1)
