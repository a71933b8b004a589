"""An immutable segment of the index: a table of products, their vectors by space, and a bitmap of deletions.

Reads memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from index.backends.filter_bitmap import FilterBitmap, Mask
from index.search import fusion, shop_codes, space
from index.search.cost import UNLIMITED, WorkLimit
from index.search.filters import FilterCache, filter_mask
from index.search.plan import Plan
from index.search.scores import CHUNK, split_rows, top_k_of_chunks
from index.search.shop_codes import ShopCodes
from index.search.space import SpaceIndex
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.names import ATTRIBUTES
from index.storage.strings import Strings
from lookalike.errors import BadArtifact
from lookalike.releases.manifest import Manifest
from lookalike.releases.names import shard_name
from lookalike.shard_query import ShardQuery
from lookalike.spaces import space_number
from lookalike.v1 import types_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

WHOLE_TABLE = Space.SPACE_AUTO  # The key of a bitmap over the rows of the table, beside those over a space's vectors.


class _BatchKey(NamedTuple):
    """Searches with equal keys run as one batch; k is part of it, so that a result does not depend on the batch."""

    space: Space.ValueType
    filter: bytes
    k: int
    min_results: int
    exact: bool


class SearchTrace(NamedTuple):
    """How one space was searched for a query."""

    space: Space.ValueType
    documents: int
    matching: int  # Vectors that pass the filter.
    recipe: str
    plan: Plan | None  # None: exact search of the vectors that pass.


class SegmentHits(NamedTuple):
    """Hits of one query in one segment, by falling score, equal scores by rising row."""

    rows: I64
    scores: F32
    traces: tuple[SearchTrace, ...]  # In each of the query's spaces, by number.


class Ids(Protocol):
    def find(self, value: bytes, /) -> int | None: ...

    def after(self, value: bytes, /) -> int:
        """How many ids are not greater than `value`."""

    def text(self, i: int, /) -> str: ...


class Products(Protocol):
    def __getitem__(self, i: int, /) -> bytes: ...

    def values_at(self, rows: I64, /) -> list[bytes]: ...


class Table(Protocol):
    """Products by row: `Attributes` on disk, with patches in memory or without, or a delta's table in memory."""

    @property
    def ids(self) -> Ids: ...

    @property
    def products(self) -> Products: ...

    @property
    def parts(self) -> Sequence[Attributes]:
        """Tables that hold, one after the other, what filters read."""

    @property
    def part_rows(self) -> I64 | None:
        """The row of the parts that holds what filters read, for each row; None: the same row."""

    @property
    def order(self) -> I64 | None:
        """The rows by rising id; None: the rows themselves are in the order of ids."""

    @property
    def expiries(self) -> tuple[I64, I64]:
        """When products expire (Unix seconds, rising), and the row of each; without those that never do."""

    def description(self, row: int, /) -> str: ...

    def shop(self, row: int, /) -> str: ...

    def __len__(self) -> int: ...


class Segment:
    """Products that are searched together. Immutable and thread-safe: a deletion makes another segment.

    alive: bitmaps of the rows of the table (key WHOLE_TABLE) and of the vectors of each space that are not deleted;
           None: nothing is deleted.
    """

    def __init__(
        self,
        table: Table,
        spaces: Mapping[Space.ValueType, SpaceIndex],
        *,
        alive: Mapping[Space.ValueType, FilterBitmap] | None = None,
        filters: FilterCache | None = None,
    ) -> None:
        self.table = table
        self.spaces = spaces
        self._alive = alive
        self._filters = FilterCache(64) if filters is None else filters

    def __len__(self) -> int:
        """Products that are not deleted."""
        return len(self.table) if self._alive is None else self._alive[WHOLE_TABLE].count

    def vector_count(self, number: Space.ValueType) -> int:
        """Vectors of products that are not deleted."""
        return len(self.spaces[number]) if self._alive is None else self._alive[number].count

    def live_rows(self) -> I64:
        """Rows of the products that are not deleted, rising."""
        return np.arange(len(self.table)) if self._alive is None else self._alive[WHOLE_TABLE].rows

    def live_positions(self, number: Space.ValueType) -> I64:
        """Positions of the vectors whose products are not deleted, rising."""
        return np.arange(len(self.spaces[number])) if self._alive is None else self._alive[number].rows

    def find(self, product_id: bytes) -> int | None:
        """The row of a product, unless it is deleted."""
        row = self.table.ids.find(product_id)
        return row if row is not None and (self._alive is None or row in self._alive[WHOLE_TABLE]) else None

    def ids(self, rows: I64) -> list[str]:
        ids = self.table.ids
        return ids.texts_at(rows) if isinstance(ids, Strings) else [ids.text(row) for row in rows.tolist()]

    def products(self, rows: I64) -> list[bytes]:
        """Serialized, without their descriptions."""
        return self.table.products.values_at(rows)

    def shops(self, rows: I64) -> list[str]:
        """The shop of each product; empty where it has none."""
        table = self.table
        if isinstance(table, Attributes):
            return table.shops.texts_at(table.shop_codes[rows])
        return [table.shop(row) for row in rows.tolist()]

    def with_deleted(self, rows: Sequence[int] | I64) -> Segment:
        """A segment in which these rows are deleted, too."""
        deleted = np.asarray(rows, dtype=np.int64)
        sizes = {WHOLE_TABLE: len(self.table), **{number: len(space) for number, space in self.spaces.items()}}
        before = self._alive or {
            number: FilterBitmap.from_mask(np.ones(size, dtype=np.bool_)) for number, size in sizes.items()
        }
        alive = {number: before[number].without(space.positions(deleted)) for number, space in self.spaces.items()}
        alive[WHOLE_TABLE] = before[WHOLE_TABLE].without(deleted)
        return Segment(self.table, self.spaces, alive=alive, filters=self._filters)

    def with_table(self, table: Table) -> Segment:
        """The same vectors and deletions, with another table of the same products."""
        return Segment(table, self.spaces, alive=self._alive)

    def nearest(self, queries: Sequence[ShardQuery], limit: WorkLimit = UNLIMITED) -> list[SegmentHits | None]:
        """The nearest of each query, as rows of the table; None where `limit` allows no result.

        Searches with equal parameters run as one batch.
        """
        batches: dict[_BatchKey, list[tuple[int, F32]]] = {}
        for i, query in enumerate(queries):
            for key, vector in _searches(query):
                batches.setdefault(key, []).append((i, vector))
        per_query: list[list[SegmentHits | None]] = [[] for _ in queries]
        for key, members in batches.items():
            vectors = members[0][1][None, :] if len(members) == 1 else np.stack([vector for _, vector in members])
            bitmap = self.bitmap(key.space, key.filter)
            results = self.spaces[key.space].search_with_plans(
                vectors, key.k, bitmap, exact=key.exact, min_results=key.min_results, limit=limit
            )
            traces = (self._trace(key.space, bitmap, None),)
            for (i, _), result in zip(members, results, strict=True):
                if result is None:
                    per_query[i].append(None)
                    continue
                (rows, scores), plan = result
                if plan is not traces[0].plan:  # Most queries of a batch have one plan.
                    traces = (self._trace(key.space, bitmap, plan),)
                per_query[i].append(SegmentHits(rows, scores, traces))
        return [
            per_space[0] if len(query.vectors) == 1 else self._fuse(query, per_space, limit)
            for query, per_space in zip(queries, per_query, strict=True)
        ]

    def _trace(self, number: Space.ValueType, bitmap: FilterBitmap | None, plan: Plan | None) -> SearchTrace:
        space = self.spaces[number]
        matching = len(space) if bitmap is None else bitmap.count
        return SearchTrace(number, len(space), matching, space.entry.recipe, plan)

    def _fuse(self, query: ShardQuery, nearest: Sequence[SegmentHits | None], limit: WorkLimit) -> SegmentHits | None:
        """The k best by the weighted cosines of all the query's spaces, among the nearest in each; None as above."""
        if query.exact:
            candidates, traces = self._matching_rows(query), self.exact_traces(query)
            if not limit.allows(len(candidates) * self._dims(query)):
                return None
        else:
            known = [hits for hits in nearest if hits is not None]
            if len(known) < len(nearest):
                return None
            candidates = np.unique(np.concatenate([hits.rows for hits in known]))
            traces = _by_space(trace for hits in known for trace in hits.traces)
        rows, scores = top_k_of_chunks(
            split_rows(candidates), query.k, lambda rows: self.scores(query, rows), limit=limit
        )
        return SegmentHits(rows, scores, traces)

    def best_per_shop(self, query: ShardQuery, limit: WorkLimit = UNLIMITED) -> SegmentHits | None:
        """Exact search for the k best, at most `max_per_shop` of a shop, equal scores by rising id.

        None where `limit` does not allow it.
        """
        rows, order = self.eligible(query), self.table.order
        if not limit.allows(len(rows) * self._dims(query)):
            return None
        if order is not None:
            rows = order[np.isin(order, rows)]
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), CHUNK):
            limit.check()
            scores[start : start + CHUNK] = self.scores(query, rows[start : start + CHUNK])
        falling = np.argsort(-scores, kind="stable")
        best = falling[self.shop_codes.within_limit(rows[falling], query.max_per_shop)][: query.k]
        return SegmentHits(rows[best], scores[best], self.exact_traces(query))

    def _dims(self, query: ShardQuery) -> int:
        """The components that comparing the query with one product takes."""
        return sum(self.spaces[number].dim for number in query.vectors)

    def eligible(self, query: ShardQuery) -> I64:
        """The rows, rising, that may be hits: they pass the filter, have a vector, and are not excluded."""
        rows = self._matching_rows(query)
        excluded = [row for product_id in query.exclude_ids if (row := self.find(product_id.encode())) is not None]
        return rows[~np.isin(rows, excluded)] if excluded else rows

    @property
    def shop_codes(self) -> ShopCodes:
        return shop_codes.merge_shop_codes(self.table.parts, self.table.part_rows)

    def scores(self, query: ShardQuery, rows: I64) -> F32:
        """The scores (c,) of rows (c,) of the table for the query."""
        return fusion.fuse(self.cosines(query, rows), query.weights)

    def exact_traces(self, query: ShardQuery) -> tuple[SearchTrace, ...]:
        return _by_space(self._trace(number, self.bitmap(number, query.filter), None) for number in query.vectors)

    def _matching_rows(self, query: ShardQuery) -> I64:
        """The rows, rising, that pass the filter and have a vector in any of the query's spaces."""
        candidates = np.zeros(len(self.table), dtype=np.bool_)
        for number in query.vectors:
            rows, bitmap = self.spaces[number].rows, self.bitmap(number, query.filter)
            candidates[rows if bitmap is None else rows[bitmap.rows]] = True
        return np.flatnonzero(candidates)

    def cosines(self, query: ShardQuery, rows: I64) -> F32:
        """Cosines (s, c) of the query with each of the rows, in each of its spaces."""
        return np.stack([self.spaces[number].cosines(vector, rows) for number, vector in query.vectors.items()])

    def count(self, condition: bytes) -> int:
        """How many products pass the serialized filter."""
        bitmap = self.bitmap(WHOLE_TABLE, condition)
        return len(self.table) if bitmap is None else bitmap.count

    def page(self, condition: bytes, after: str, size: int) -> list[int]:
        """Rows of at most `size` products that pass, with ids greater than `after`, by rising id; empty: no more."""
        bitmap, order = self.bitmap(WHOLE_TABLE, condition), self.table.order
        start = self.table.ids.after(after.encode()) if after else 0
        if order is None:
            rising = range(start, len(self.table)) if bitmap is None else bitmap.rows_from(start)
            return list(islice(rising, size))
        rows = order[start:]
        return list((rows if bitmap is None else rows[bitmap.mask[rows]])[:size].tolist())

    def bitmap(self, number: Space.ValueType, condition: bytes) -> FilterBitmap | None:
        """Bitmap of the vectors of a space, or rows of the table, that pass and are not deleted; None: all of them."""
        alive = None if self._alive is None else self._alive[number]
        if not condition:
            return alive
        matching = self._filters.get(number, condition, lambda: FilterBitmap.from_mask(self._mask(number, condition)))
        return matching if alive is None else matching & alive

    def _mask(self, number: Space.ValueType, condition: bytes) -> Mask:
        if number == WHOLE_TABLE:
            parsed = types_pb2.Filter.FromString(condition)
            mask = np.concatenate([filter_mask(part, parsed) for part in self.table.parts])
            return mask if self.table.part_rows is None else mask[self.table.part_rows]
        table_bitmap = self._filters.get(
            WHOLE_TABLE, condition, lambda: FilterBitmap.from_mask(self._mask(WHOLE_TABLE, condition))
        )
        return table_bitmap.mask[self.spaces[number].rows]


def open_segment(root: Path, manifest: Manifest, shard: int, placement: space.DevicePlacement | None = None) -> Segment:
    """Map one shard of a version whose files have been verified; `placement` moves its ANN indexes to a device.

    Raises BadArtifact, naming the file, or what `placement` raises.
    """
    directory = root / shard_name(shard)
    table = attributes.open_attributes(directory / ATTRIBUTES)
    if len(table) != manifest.products[shard]:
        raise BadArtifact(f"{directory / ATTRIBUTES}: has {len(table)} products, expected {manifest.products[shard]}")
    spaces = {
        space_number(entry.name): space.open_space(
            directory / entry.name,
            entry.indexes[shard],
            documents=entry.documents[shard],
            dim=entry.dim,
            rescore=entry.rescore,
            placement=placement,
        )
        for entry in manifest.spaces
    }
    return Segment(table, spaces)


def _searches(query: ShardQuery) -> list[tuple[_BatchKey, F32]]:
    """The single-vector searches of a query. Exact fusion needs none: all products are its candidates."""
    is_fusion = len(query.vectors) > 1
    if is_fusion and query.exact:
        return []
    k = fusion.candidates_per_space(query.k) if is_fusion else query.k
    return [
        (_BatchKey(number, query.filter, k, query.k, query.exact), vector) for number, vector in query.vectors.items()
    ]


def _by_space(traces: Iterable[SearchTrace]) -> tuple[SearchTrace, ...]:
    return tuple(sorted(traces, key=lambda trace: trace.space))
