"""Exact search for many queries in shared passes over the vectors, block by block. Pure: no threads, no clock.

A segment's vectors are scanned in a circle, as long as a query needs them: one that arrives joins at the next block,
and is answered when it has met every block once. A block of vectors meets all queries in one product of matrices, whose
rounding depends on the batch; so the product only selects those that may be among the best, and these are scored as in
every other search.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from index.search.scores import matrix_product, rounding_error
from index.search.segment import Segment, SegmentHits
from index.search.space import SpaceIndex
from index.search.view import Hits, View, hit_positions
from index.storage.vectors import read_ahead
from lookalike.shard_query import ShardQuery
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

# Of float32 in one block: 8,192 vectors of 1024 dimensions. One query takes 3 ms on one core (float16: 8), 64 take 20.
BLOCK_BYTES = 32 << 20
# A query whose filter passes less than one of this many rows of a block is compared with these rows alone.
_SPARSE = 8
# The time of a block for n queries, relative to that of reading it, is about 1 + n/12: at 1024 dimensions 16 queries
# took 2.7 times as long as one, 64 took 6.4 times (float16: 1.6 and 3.3 times).
_QUERIES_OF_DOUBLE_COST = 12


def components(view: View, query: ShardQuery) -> dict[int, int]:
    """The work of a query alone, by the key of each segment that it has to scan."""
    return {
        segment_key(segment): len(segment.table) * sum(segment.spaces[number].dim for number in query.vectors)
        for segment in view.segments
    }


def segment_key(segment: Segment) -> int:
    """Equal for segments that share their vectors: a deletion makes another segment of the same vectors."""
    return id(segment.spaces)


def batch_factor(queries: int) -> float:
    """The work of a pass for so many queries, relative to the components that it reads."""
    return 1 + queries / _QUERIES_OF_DOUBLE_COST


class ExactSearch:
    """The exact search of one query in one view, while it is scanned."""

    def __init__(self, view: View, query: ShardQuery) -> None:
        self.view = view
        self.query = query
        self.scans = [_SegmentScan(segment, query) for segment in view.segments]

    @property
    def is_complete(self) -> bool:
        return not any(scan.rows_left for scan in self.scans)

    def result(self) -> tuple[Hits, Sequence[int]]:
        """A ranking, and the positions of the query's hits in it."""
        ranking = self.view.merge([scan.hits() for scan in self.scans])
        return ranking, hit_positions(self.query, ranking)


class _SegmentScan:
    """The best of those rows of one segment that one query has met."""

    def __init__(self, segment: Segment, query: ShardQuery) -> None:
        self.segment = segment
        self.query = query
        self.rows_left = len(segment.table) if query.k else 0
        self._bitmaps = {number: segment.bitmap(number, query.filter) for number in query.vectors}
        excluded = (segment.find(product_id.encode()) for product_id in query.exclude_ids)
        self._excluded = np.array([row for row in excluded if row is not None], dtype=np.int64)
        self._shops = segment.shop_codes if query.max_per_shop else None
        self._id_ranks = None if segment.table.order is None else np.argsort(segment.table.order)
        self._margin = rounding_error(max(segment.spaces[number].dim for number in query.vectors))
        self._rows = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)

    def hits(self) -> SegmentHits:
        return SegmentHits(self._rows, self._scores, self.segment.exact_traces(self.query))

    def candidates(self, first: int, last: int) -> I64:
        """The rows from `first` to before `last`, rising, that may be hits."""
        mask = np.zeros(last - first, dtype=np.bool_)
        for number, bitmap in self._bitmaps.items():
            start, end, rows = _rows_between(self.segment.spaces[number], first, last)
            mask[rows] |= True if bitmap is None else bitmap.mask_of(start, end)
        if len(self._excluded):
            mask[self._excluded[(self._excluded >= first) & (self._excluded < last)] - first] = False
        return np.arange(first, last) if mask.all() else np.flatnonzero(mask) + first

    def likely(self, approximate: F32) -> I64:
        """Positions of the scores, within `margin` of the exact ones, that may be among the k best."""
        floor = max(self._scores[-1] if len(self._rows) == self.query.k else -math.inf, self.query.min_score)
        kept = np.flatnonzero(approximate >= floor - self._margin)
        if not self.query.max_per_shop and len(kept) > self.query.k:
            # The k best of these by exact score are at most the margin below the k-th here, and look at most twice it.
            kth = np.partition(approximate[kept], -self.query.k)[-self.query.k]
            kept = kept[approximate[kept] >= kth - 2 * self._margin]
        return kept

    def add(self, rows: I64) -> None:
        """Score rows that were not met before, and keep the k best of all."""
        if not len(rows):
            return
        scores = np.concatenate((self._scores, self.segment.scores(self.query, rows)))
        rows = np.concatenate((self._rows, rows))
        order = np.lexsort((rows if self._id_ranks is None else self._id_ranks[rows], -scores))
        if self._shops is not None:
            order = order[self._shops.within_limit(rows[order], self.query.max_per_shop)]
        order = order[: self.query.k]
        self._rows, self._scores = rows[order], scores[order]


class Progress(NamedTuple):
    """What one block has brought."""

    components: float  # The work that was done, `batch_factor` included.
    complete: list[ExactSearch]


class SharedScan:
    """The exact searches in progress. A step of the scan is one block of one segment, for all that need it."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._circles: deque[_Circle] = deque()  # The first is the next to do a block of.

    def __bool__(self) -> bool:
        return bool(self._circles)

    def add(self, search: ExactSearch) -> None:
        for scan in search.scans:
            if scan.rows_left:
                self._circle_of(scan.segment).members.append((search, scan))

    def remove(self, search: ExactSearch) -> None:
        for circle in self._circles:
            circle.members = [member for member in circle.members if member[0] is not search]
        self._drop_idle()

    def left(self) -> dict[int, int]:
        """The components to be read until all have been answered, by segment key."""
        return {circle.key: circle.components_left() for circle in self._circles}

    def advance(self) -> Progress:
        """Scan one block; the segments take turns."""
        circle = self._circles[0]
        self._circles.rotate(-1)
        work, met = circle.advance()
        self._drop_idle()
        return Progress(work, [search for search in met if search.is_complete])

    def _circle_of(self, segment: Segment) -> _Circle:
        for circle in self._circles:
            if circle.key == segment_key(segment):
                return circle
        self._circles.append(_Circle(segment, self._block_bytes))
        return self._circles[-1]

    def _drop_idle(self) -> None:
        if not all(circle.members for circle in self._circles):
            self._circles = deque(circle for circle in self._circles if circle.members)


class _Circle:
    """The rows of one segment, scanned from first to last and again, while a search needs them."""

    def __init__(self, segment: Segment, block_bytes: int) -> None:
        self.key = segment_key(segment)
        self.members: list[tuple[ExactSearch, _SegmentScan]] = []
        self._table_rows = len(segment.table)
        self._spaces = segment.spaces
        self._block_rows = max(1, block_bytes // (4 * max(space.dim for space in segment.spaces.values())))
        self._next_row = 0

    def components_left(self) -> int:
        return max(scan.rows_left for _, scan in self.members) * sum(
            self._spaces[number].dim for number in self._used()
        )

    def advance(self) -> tuple[float, list[ExactSearch]]:
        """Scan one block; returns the work, and the searches that met it."""
        first, last = self._next_row, min(self._next_row + self._block_rows, self._table_rows)
        self._next_row = last % self._table_rows
        self._read_ahead()
        dense: list[tuple[_SegmentScan, I64]] = []
        for _, scan in self.members:
            candidates = scan.candidates(first, last)
            if len(candidates) * _SPARSE < last - first:
                scan.add(candidates)
            else:
                dense.append((scan, candidates))
        totals = self._approximate([scan for scan, _ in dense], first, last)
        for (scan, candidates), approximate in zip(dense, totals, strict=True):
            all_pass = len(candidates) == last - first
            scan.add(candidates[scan.likely(approximate if all_pass else approximate[candidates - first])])
        met = [search for search, _ in self.members]
        for _, scan in self.members:
            scan.rows_left -= last - first
        work = (last - first) * sum(self._spaces[number].dim for number in self._used()) * batch_factor(len(met))
        self.members = [member for member in self.members if member[1].rows_left]
        return work, met

    def _read_ahead(self) -> None:
        """Begin to read the next block, which is compared after this one."""
        for number in self._used():
            space = self._spaces[number]
            start, end, _ = _rows_between(space, self._next_row, self._next_row + self._block_rows)
            read_ahead(space.vectors[start:end])

    def _approximate(self, scans: Sequence[_SegmentScan], first: int, last: int) -> list[F32]:
        """For each scan the scores of the rows from `first` to before `last`, within its margin."""
        totals = [np.zeros(last - first, dtype=np.float32) for _ in scans]
        for number in sorted({number for scan in scans for number in scan.query.vectors}):
            start, end, rows = _rows_between(self._spaces[number], first, last)
            members = [i for i, scan in enumerate(scans) if number in scan.query.vectors]
            queries = np.stack([scans[i].query.vectors[number] for i in members])
            products = matrix_product(queries, self._spaces[number].vectors[start:end])
            for i, scores in zip(members, products, strict=True):
                weights = dict(zip(scans[i].query.vectors, scans[i].query.weights, strict=True))
                totals[i][rows] += scores if len(weights) == 1 else np.float32(weights[number]) * scores
        return totals

    def _used(self) -> set[Space.ValueType]:
        return {number for _, scan in self.members for number in scan.query.vectors}


def _rows_between(space: SpaceIndex, first: int, last: int) -> tuple[int, int, I64 | slice]:
    """The positions of the vectors of rows `first` to before `last`, and these rows, counted from `first`."""
    start, end = np.searchsorted(space.rows, (first, last)).tolist()
    return start, end, slice(None) if end - start == last - first else space.rows[start:end] - first
