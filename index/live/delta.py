"""The delta: products changed since the last compaction, in arrays that only grow. Pure.

A change that says all of a product has a row with its vectors; of a product whose vectors stay where they are, in a
segment on disk, the delta has a patch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from index.backends.filter_bitmap import FilterBitmap
from index.live.updates import Change, Tombstone
from index.search.segment import WHOLE_TABLE, Segment
from index.search.space import SpaceIndex
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import IndexEntry, SpaceEntry
from lookalike.spaces import space_number
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, I64

_EMPTY_TABLE = attributes.empty_serialized()


# A patch is some hundred bytes in memory and in the log, and a row with its vectors several thousand.
PATCHES_PER_ROW = 16
_NO_EXPIRIES = (np.empty(0, np.int64), np.empty(0, np.int64))


class _VectorBuffer:
    """Vectors of one space. Reserves address space for all at once; memory is used only by what is written."""

    def __init__(self, capacity: int, dim: int, rescore: str) -> None:
        self.vectors: StoredVectors = np.empty((capacity, dim), dtype=rescore)
        self.rows: I64 = np.empty(capacity, dtype=np.int64)
        self.count = 0

    def add(self, row: int, vector: F32) -> None:
        self.vectors[self.count], self.rows[self.count] = vector, row
        self.count += 1

    def index(self) -> SpaceIndex:
        vectors, rows = self.vectors[: self.count], self.rows[: self.count]
        return SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=rows, ann_index=None)


def empty_segment(spaces: Sequence[SpaceEntry]) -> Segment:
    """A segment without products."""
    indexes = {space_number(entry.name): _VectorBuffer(0, entry.dim, entry.rescore).index() for entry in spaces}
    return Segment(Attributes(attributes.to_record_batch(_EMPTY_TABLE)), indexes)


class Delta:
    """Changes in order of arrival, at most `capacity` rows. For one writer; segments made from it never change."""

    def __init__(self, spaces: Sequence[SpaceEntry], capacity: int) -> None:
        self.revisions: dict[bytes, int] = {}  # Of every product that was changed here, removed ones included.
        self.tombstones: dict[bytes, Tombstone] = {}
        self._alive = np.zeros(capacity, dtype=np.bool_)
        self._latest: dict[bytes, int] = {}  # The row of each product that is not deleted.
        self._spaces = {space_number(entry.name): _VectorBuffer(capacity, entry.dim, entry.rescore) for entry in spaces}
        self._rows, self.patches = DeltaTable.empty(), DeltaTable.empty()
        self.patched: dict[bytes, int] = {}  # The row of the last patch of each product that has no row with vectors.

    def __len__(self) -> int:
        """Rows in use, superseded ones included."""
        return len(self._rows)

    @property
    def changes(self) -> int:
        """Used capacity: the number of rows or of changed products, whichever is larger."""
        return max(len(self), len(self.revisions) - len(self.patched), len(self.patches) // PATCHES_PER_ROW)

    def apply(self, changes: Sequence[Change]) -> None:
        """Add changes of different products, each newer than the product's last; there must be room for them."""
        self._apply_patches([change for change in changes if change.keeps_vectors])
        changes = [change for change in changes if not change.keeps_vectors]
        upserts = [(change, change.product) for change in changes if change.product is not None]
        rows = self._rows.extended_with([product for _, product in upserts], [change.revision for change, _ in upserts])
        for change in changes:
            self.revisions[change.id] = change.revision
            self.patched.pop(change.id, None)
            self.tombstones.pop(change.id, None)
            if change.product is None:
                self.tombstones[change.id] = Tombstone(change.revision, change.generation)
            self.delete(change.id)
        for row, (change, _) in enumerate(upserts, start=len(self)):
            self._alive[row], self._latest[change.id] = True, row
            for number, vector in change.vectors.items():
                self._spaces[number].add(row, vector)
        self._rows = rows

    def _apply_patches(self, changes: Sequence[Change]) -> None:
        products = [change.product for change in changes if change.product is not None]
        first = len(self.patches)
        self.patches = self.patches.extended_with(products, [change.revision for change in changes])
        for row, change in enumerate(changes, first):
            self.revisions[change.id] = change.revision
            self.patched[change.id] = row

    def has_row(self, product_id: bytes) -> bool:
        """Whether the product is here, with its vectors."""
        return product_id in self._latest

    def superseding(self) -> Iterable[bytes]:
        """Ids of the products that are removed, or are here with their vectors, and so no longer anywhere else."""
        return self.revisions.keys() - self.patched.keys()

    def delete(self, product_id: bytes) -> None:
        if (row := self._latest.pop(product_id, None)) is not None:
            self._alive[row] = False

    def table(self) -> pa.Table:
        """All rows, in the form that `attributes.read_serialized` returns."""
        return self._rows.table()

    def segment(self) -> Segment:
        """A segment of the present content."""
        alive_rows = self._alive[: len(self)]
        spaces = {number: buffer.index() for number, buffer in self._spaces.items()}
        if alive_rows.all():
            return Segment(self._rows, spaces)
        alive = {number: FilterBitmap.from_mask(alive_rows[index.rows]) for number, index in spaces.items()}
        return Segment(self._rows, spaces, alive={**alive, WHOLE_TABLE: FilterBitmap.from_mask(alive_rows)})


class _DeltaIds:
    """Ids of rows in order of arrival: of rows with equal ids, the last is the product's."""

    def __init__(self, values: Sequence[bytes], order: I64) -> None:
        self._values = values
        self._order = order

    def find(self, value: bytes) -> int | None:
        last = self.after(value) - 1
        return int(self._order[last]) if last >= 0 and self._values[self._order[last]] == value else None

    def after(self, value: bytes) -> int:
        return bisect_right(self._order, value, key=self._values.__getitem__)

    def text(self, row: int) -> str:
        return self._values[row].decode()


class _Values:
    """Values by row, in a list that only grows."""

    def __init__(self, values: list[bytes]) -> None:
        self.values = values

    def __getitem__(self, row: int) -> bytes:
        return self.values[row]

    def values_at(self, rows: I64) -> list[bytes]:
        return [self.values[row] for row in rows.tolist()]


class _TablePart:
    """Consecutive rows. Filter columns are built on first use: most parts are merged before a filter needs them."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def attributes(self) -> Attributes:
        return Attributes(attributes.to_record_batch(self.table))


class DeltaTable:
    """Products in order of arrival; of rows with equal ids, the last is the product's.

    Immutable; the table that extends it shares its lists, which only grow.
    """

    def __init__(
        self,
        ids: list[bytes],
        products: list[bytes],
        parts: Sequence[_TablePart],
        count: int,
        expiries: tuple[I64, I64],
    ) -> None:
        self.products = _Values(products)
        self.expiries = expiries  # As those of `Attributes`.
        self.part_rows = None
        self._values = ids
        self._parts = parts
        self._count = count

    @classmethod
    def empty(cls) -> DeltaTable:
        return cls([], [], (), 0, _NO_EXPIRIES)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def order(self) -> I64:
        """Rows by rising id, equal ids in order of arrival."""
        return np.array(sorted(range(self._count), key=self._values.__getitem__), dtype=np.int64)

    @cached_property
    def ids(self) -> _DeltaIds:
        return _DeltaIds(self._values, self.order)

    @property
    def parts(self) -> Sequence[Attributes]:
        return [part.attributes for part in self._parts]

    def description(self, row: int) -> str:
        part, offset = self._locate(row)
        return part.description(offset)

    def shop(self, row: int) -> str:
        part, offset = self._locate(row)
        return part.shop(offset)

    def _locate(self, row: int) -> tuple[Attributes, int]:
        """The part that holds a row, and the row's offset in it."""
        for part in self._parts:
            if row < len(part):
                return part.attributes, row
            row -= len(part)
        raise IndexError(row)

    def table(self) -> pa.Table:
        """In the form that `attributes.read_serialized` returns."""
        return pa.concat_tables([_EMPTY_TABLE, *(part.table for part in self._parts)])

    def extended_with(self, products: Sequence[Product], revisions: Sequence[int]) -> DeltaTable:
        """A table with these products after the present rows."""
        if not products:
            return self
        added = attributes.serialized_table(products, revisions)
        self._values[len(self) :] = [product.id.encode() for product in products]
        self.products.values[len(self) :] = added["product"].to_pylist()
        parts = [*self._parts, _TablePart(added)]
        # Each part is kept at least twice as long as the next: few parts, and each row is re-encoded only a few times.
        while len(parts) > 1 and len(parts[-2]) < 2 * len(parts[-1]):
            parts[-2:] = [_TablePart(pa.concat_tables([parts[-2].table, parts[-1].table]))]
        count = len(self) + len(products)
        return DeltaTable(self._values, self.products.values, parts, count, self._extended_expiries(products))

    def _extended_expiries(self, products: Sequence[Product]) -> tuple[I64, I64]:
        added = [(product.expires_at, row) for row, product in enumerate(products, len(self)) if product.expires_at]
        if not added:
            return self.expiries
        times_s, rows = map(np.concatenate, zip(self.expiries, np.array(added).T, strict=True))
        rising = np.argsort(times_s, kind="stable")
        return times_s[rising], rows[rising]
