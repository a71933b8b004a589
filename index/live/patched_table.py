"""The table of a segment on disk, with the patches of its products in memory. Pure.

A patch changes what is known of a product, not its vectors: these stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from index.live.delta import DeltaTable
from index.search.segment import Ids
from index.storage.attributes import Attributes
from lookalike.vectors import I64

Patches = Attributes | DeltaTable  # Whole products, each in the state after a patch.


class PatchedTable:
    """Products by row, those of `base` but for the patched ones. Immutable: a patch makes another table.

    patches:   tables of patched products; where one has several patches, all but the last are of no account.
    part_rows: (n,) for each row, the row of `base` and the patches, one after the other, that holds its product.
    """

    def __init__(self, base: Attributes, patches: Sequence[Patches], part_rows: I64) -> None:
        self.base = base
        self.patches = patches
        self.part_rows = part_rows
        self.ids: Ids = base.ids
        self.order = None

    @classmethod
    def of(cls, table: Attributes | PatchedTable) -> PatchedTable:
        return table if isinstance(table, PatchedTable) else cls(table, (), np.arange(len(table), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.base)

    def with_patches(self, patches: Sequence[Patches], rows: Iterable[tuple[int, int]]) -> PatchedTable:
        """With these tables, which extend the present ones, and (row, row of the last of them) of what changed."""
        first = len(self.base) + sum(len(table) for table in patches[:-1])
        part_rows = self.part_rows.copy()
        for row, patch_row in rows:
            part_rows[row] = first + patch_row
        return PatchedTable(self.base, patches, part_rows)

    @property
    def patched_rows(self) -> I64:
        """The rows that have been patched, rising."""
        return np.flatnonzero(self.part_rows >= len(self.base))

    @cached_property
    def parts(self) -> Sequence[Attributes]:
        return [part for table in (self.base, *self.patches) for part in table.parts]

    @property
    def products(self) -> PatchedTable:
        return self

    def __getitem__(self, row: int) -> bytes:
        table, row = self._locate(row)
        return table.products[row]

    def values_at(self, rows: I64) -> list[bytes]:
        values = self.base.products.values_at(rows)
        for i in np.flatnonzero(self.part_rows[rows] >= len(self.base)).tolist():
            values[i] = self[int(rows[i])]
        return values

    def description(self, row: int) -> str:
        table, row = self._locate(row)
        return table.description(row)

    def shop(self, row: int) -> str:
        table, row = self._locate(row)
        return table.shop(row)

    @cached_property
    def expiries(self) -> tuple[I64, I64]:
        """As those of `Attributes`."""
        times_s, rows = self.base.expiries
        own = self.part_rows[rows] == rows
        patched = self.patched_rows
        patch_times_s = np.zeros(len(self.base) + sum(map(len, self.patches)), np.int64)
        first = len(self.base)
        for table in self.patches:
            table_times_s, table_rows = table.expiries
            patch_times_s[first + table_rows] = table_times_s
            first += len(table)
        of_patched = patch_times_s[self.part_rows[patched]]
        times_s = np.concatenate([times_s[own], of_patched[of_patched > 0]])
        rows = np.concatenate([rows[own], patched[of_patched > 0]])
        rising = np.argsort(times_s, kind="stable")
        return times_s[rising], rows[rising]

    def _locate(self, row: int) -> tuple[Patches, int]:
        """The table that holds the product of a row, and the row in it."""
        row = int(self.part_rows[row])
        for table in (self.base, *self.patches):
            if row < len(table):
                return table, row
            row -= len(table)
        raise IndexError(row)


def take(whole: pa.Table, patches: Sequence[pa.Table], rows: I64) -> pa.Table:
    """These rows of `PatchedTable.part_rows`, of tables in the form that `attributes.read_serialized` returns."""
    return pa.concat_tables([whole, *patches]).take(rows)
