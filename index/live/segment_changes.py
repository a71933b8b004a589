"""Segments on disk with deletions and patches since they were written. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from index.live.patched_table import PatchedTable, Patches
from index.search.segment import Segment
from index.search.view import DocumentRef
from index.storage.attributes import Attributes


def delete_products(segment: Segment, ids: Iterable[bytes]) -> Segment:
    rows = [row for product_id in ids if (row := segment.find(product_id)) is not None]
    return segment.with_deleted(rows) if rows else segment


def patch_products(
    segment: Segment, patches: Sequence[Patches], patched: Iterable[tuple[bytes, DocumentRef | None, int]]
) -> Segment:
    """The segment with the patches of those products that it has.

    patched: ids, where the products are if that is known, and the row of each in the last of `patches`.
    """
    ids = segment.table.ids

    def row_of(product_id: bytes, ref: DocumentRef | None) -> int | None:
        if ref is None:
            return ids.find(product_id)
        return ref.row if ref.segment.table.ids is ids else None

    rows = [(row, patch_row) for product_id, ref, patch_row in patched if (row := row_of(product_id, ref)) is not None]
    return patch_rows(segment, patches, rows) if rows else segment


def patch_rows(segment: Segment, patches: Sequence[Patches], rows: Iterable[tuple[int, int]]) -> Segment:
    return segment.with_table(patched_table(segment).with_patches(patches, rows))


def patched_table(segment: Segment) -> PatchedTable:
    assert isinstance(segment.table, Attributes | PatchedTable), "a segment on disk"  # noqa: S101  # for the type checker
    return PatchedTable.of(segment.table)


def unpatched(segment: Segment) -> Segment:
    return segment.with_table(segment.table.base) if isinstance(segment.table, PatchedTable) else segment
