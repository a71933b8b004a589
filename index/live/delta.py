"""The products that came since the last compaction: arrays that only grow, and the segments that look at them. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from index.backends.filter_bitmap import FilterBitmap
from index.live.updates import Change, Removal
from index.search.segment import ALL, Segment
from index.search.space import SpaceIndex
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.manifest import IndexEntry, SpaceEntry
from index.storage.vectors import StoredVectors
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, I64

_NOTHING = attributes.with_serialized_products(attributes.table_of_products([], []))


class _Vectors:
    """Of one space. Room for all is reserved at once; the system gives memory only to what is written."""

    def __init__(self, capacity: int, dim: int, rescore: str) -> None:
        self.vectors: StoredVectors = np.empty((capacity, dim), dtype=rescore)
        self.rows: I64 = np.empty(capacity, dtype=np.int64)
        self.count = 0

    def add(self, row: int, vector: F32) -> None:
        self.vectors[self.count], self.rows[self.count] = vector, row
        self.count += 1

    def index(self) -> SpaceIndex:
        vectors, rows = self.vectors[: self.count], self.rows[: self.count]
        return SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=rows, codes=None)


def nothing(spaces: Sequence[SpaceEntry]) -> Segment:
    """A segment of no products."""
    indexes = {space_number(entry.name): _Vectors(0, entry.dim, entry.rescore).index() for entry in spaces}
    return Segment(Attributes(attributes.to_record_batch(_NOTHING)), indexes)


class Delta:
    """Changes in the order they came, at most `capacity` rows. One writer; a segment that it made stays as it was."""

    def __init__(self, spaces: Sequence[SpaceEntry], capacity: int) -> None:
        self.revisions: dict[bytes, int] = {}  # Of every product that was changed here, removed ones included.
        self.removed: dict[bytes, Removal] = {}
        self._alive = np.zeros(capacity, dtype=np.bool_)
        self._latest: dict[bytes, int] = {}  # The row of each product that is alive here.
        self._spaces = {space_number(entry.name): _Vectors(capacity, entry.dim, entry.rescore) for entry in spaces}
        self._rows = Rows([], [], (), np.empty(0, np.int64))

    def __len__(self) -> int:
        """Rows in use, of products that were superseded too."""
        return len(self._rows)

    @property
    def changes(self) -> int:
        """How much room is taken: by rows, or by products that were changed."""
        return max(len(self), len(self.revisions))

    def apply(self, changes: Sequence[Change]) -> None:
        """Of different products, newer than what is here; no more than there is room for."""
        upserts = [(change, change.product) for change in changes if change.product is not None]
        rows = self._rows.followed_by([product for _, product in upserts], [change.revision for change, _ in upserts])
        for change in changes:
            self.revisions[change.id] = change.revision
            self.removed.pop(change.id, None)
            if change.product is None:
                self.removed[change.id] = Removal(change.revision, change.generation)
            self.delete(change.id)
        for row, (change, _) in enumerate(upserts, start=len(self)):
            self._alive[row], self._latest[change.id] = True, row
            for number, vector in change.vectors.items():
                self._spaces[number].add(row, vector)
        self._rows = rows

    def delete(self, product_id: bytes) -> None:
        if (row := self._latest.pop(product_id, None)) is not None:
            self._alive[row] = False

    def table(self) -> pa.Table:
        """All rows, as `attributes.serialized` returns them."""
        return self._rows.table()

    def segment(self) -> Segment:
        """What is here now."""
        alive_rows = self._alive[: len(self)]
        spaces = {number: kept.index() for number, kept in self._spaces.items()}
        if alive_rows.all():
            return Segment(self._rows, spaces)
        alive = {number: FilterBitmap.from_mask(alive_rows[index.rows]) for number, index in spaces.items()}
        return Segment(self._rows, spaces, alive={**alive, ALL: FilterBitmap.from_mask(alive_rows)})


class _Ids:
    """Of rows in the order they came: the last of equal ids is the product's."""

    def __init__(self, values: Sequence[bytes], order: I64) -> None:
        self._values = values
        self._order = order

    def find(self, value: bytes) -> int | None:
        at = self.after(value) - 1
        return int(self._order[at]) if at >= 0 and self._values[self._order[at]] == value else None

    def after(self, value: bytes) -> int:
        return bisect_right(self._order, value, key=self._values.__getitem__)

    def text(self, row: int) -> str:
        return self._values[row].decode()


class _Part:
    """Some rows. What filters look at is made when one does: most writes are not filtered before the next."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def attributes(self) -> Attributes:
        return Attributes(attributes.to_record_batch(self.table))


class Rows:
    """A table of products in the order they came, the last of equal ids being the product's.

    Nothing in it changes; what follows it shares its lists, which only grow.
    """

    def __init__(self, ids: list[bytes], products: list[bytes], parts: Sequence[_Part], order: I64) -> None:
        self.products = products
        self.order = order  # By rising id, and among equal ones as they came.
        self.ids = _Ids(ids, order)
        self._values = ids
        self._parts = parts

    def __len__(self) -> int:
        return len(self.order)

    @property
    def parts(self) -> Sequence[Attributes]:
        return [part.attributes for part in self._parts]

    def description(self, row: int) -> str:
        part, at = self._at(row)
        return part.description(at)

    def shop(self, row: int) -> str:
        part, at = self._at(row)
        return part.shop(at)

    def _at(self, row: int) -> tuple[Attributes, int]:
        for part in self._parts:
            if row < len(part):
                return part.attributes, row
            row -= len(part)
        raise IndexError(row)

    def table(self) -> pa.Table:
        """As `attributes.serialized` returns it."""
        return pa.concat_tables([_NOTHING, *(part.table for part in self._parts)])

    def followed_by(self, products: Sequence[Product], revisions: Sequence[int]) -> Rows:
        if not products:
            return self
        added = attributes.with_serialized_products(attributes.table_of_products(products, revisions))
        coming = range(len(self), len(self) + len(products))
        self._values[len(self) :] = [product.id.encode() for product in products]
        self.products[len(self) :] = added["product"].to_pylist()
        parts = [*self._parts, _Part(added)]
        # Each part is at least twice as long as the next, so there are few, and a row is encoded anew a few times.
        while len(parts) > 1 and len(parts[-2]) < 2 * len(parts[-1]):
            parts[-2:] = [_Part(pa.concat_tables([parts[-2].table, parts[-1].table]))]
        rows = sorted(coming, key=self._values.__getitem__)
        order: I64 = np.insert(self.order, [self.ids.after(self._values[row]) for row in rows], rows)
        return Rows(self._values, self.products, parts, order)
