"""Rows of a products file as changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.errors import BadCatalogue, BadSettings
from lookalike.product_rules import RejectReason
from lookalike.stream.event import check_change
from pipeline.change_rows import ChangeKind, ChangeRow, open_changes, read_changes, stamp
from pipeline.product import RejectedRow
from pipeline.tables.reader import DEFAULT_OPTIONS
from tests.unit.pipeline.catalogues import photo, write_jsonl, write_table


def rows_of(source: Path, kind: ChangeKind, revision: int = 50) -> list[ChangeRow | RejectedRow]:
    directory, table = open_changes(source, DEFAULT_OPTIONS, kind)
    return [*read_changes(directory, table, kind, revision=revision)]


def changes_of(source: Path, kind: ChangeKind = ChangeKind(), revision: int = 50) -> list[ChangeRow]:  # noqa: B008  # frozen
    rows = rows_of(source, kind, revision)
    assert all(isinstance(row, ChangeRow) for row in rows), rows
    return [row for row in rows if isinstance(row, ChangeRow)]


def test_a_row_is_an_upsert_that_encodes_what_it_has(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a", "image": "a.png", "tags": ["x", "y"]}, photos={"a.png": photo()})
    (row,) = changes_of(tmp_path)
    upsert = row.change.upsert
    assert (upsert.product.id, upsert.product.image, [*upsert.product.tags]) == ("a", "a.png", ["x", "y"])
    assert (upsert.product.price, upsert.product.in_stock, upsert.revision, upsert.encode) == (1200, True, 50, True)


def test_every_change_of_a_file_passes_the_rules_of_an_event(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a"}, {"id": "b", "price": None, "title": "x" * 2000})
    for kind in (ChangeKind(), ChangeKind(remove=True), ChangeKind(patch=("price", "title"))):
        for row in changes_of(tmp_path, kind):
            before = row.change.SerializeToString(deterministic=True)
            assert check_change(row.change, 0) == []
            assert row.change.SerializeToString(deterministic=True) == before


def test_a_revision_of_the_row_goes_before_that_for_all(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a", "revision": 7}, {"id": "b"})
    assert [row.change.upsert.revision for row in changes_of(tmp_path)] == [7, 50]
    assert [row.change.remove.revision for row in changes_of(tmp_path, ChangeKind(remove=True))] == [7, 50]


def test_a_row_without_a_revision_is_bad_where_there_is_none_for_all(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a", "revision": 7}, {"id": "b"})
    for kind in (ChangeKind(), ChangeKind(remove=True), ChangeKind(patch=("price",))):
        first, second = rows_of(tmp_path, kind, revision=0)
        assert isinstance(first, ChangeRow)
        assert isinstance(second, RejectedRow)
        assert second.reason is RejectReason.BAD_REVISION


def test_a_patch_has_the_named_fields_and_no_others(tmp_path: Path) -> None:
    write_table(tmp_path, "id,price,title,in_stock\na,,new,no\n")
    (row,) = changes_of(tmp_path, ChangeKind(patch=("price", "in_stock")))
    patch = row.change.patch
    assert [*patch.update_mask.paths] == ["price", "in_stock"]
    assert not patch.product.HasField("price")
    assert (patch.product.in_stock, patch.product.title, patch.encode) == (False, "", False)


@pytest.mark.parametrize("field", ["title", "description", "image"])
def test_a_patch_of_what_is_encoded_is_encoded(tmp_path: Path, field: str) -> None:
    write_jsonl(tmp_path, {"id": "a", "description": "words", "image": "http://example.com/a.jpg"})
    (row,) = changes_of(tmp_path, ChangeKind(patch=(field,)))
    assert row.change.patch.encode


def test_a_json_row_patches_only_the_fields_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "products.jsonl").write_text(
        '{"id": "a", "price": null}\n{"id": "b", "shop": "s"}\n{"id": "c", "title": "t"}\n'
    )
    first, second, third = rows_of(tmp_path, ChangeKind(patch=("price", "shop")))
    assert isinstance(first, ChangeRow)
    assert isinstance(second, ChangeRow)
    assert [*first.change.patch.update_mask.paths] == ["price"]
    assert [*second.change.patch.update_mask.paths] == ["shop"]
    assert isinstance(third, RejectedRow)


def test_a_removal_needs_only_an_id_written_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").write_text('{"id": " a "}\n{"id": 17.0}\n{"id": ""}\n{"id": "a"}\n')
    rows = rows_of(tmp_path / "gone.jsonl", ChangeKind(remove=True))
    assert [row.change.remove.product_id for row in rows if isinstance(row, ChangeRow)] == ["a", "17"]
    reasons = [row.reason for row in rows if isinstance(row, RejectedRow)]
    assert reasons == [RejectReason.MISSING_ID, RejectReason.DUPLICATE_ID]


def test_bad_rows_are_those_of_a_catalogue(tmp_path: Path) -> None:
    write_jsonl(tmp_path, "{", {"id": "a", "price": -1}, {"id": "b", "category": ""})
    reasons = [row.reason for row in rows_of(tmp_path, ChangeKind()) if isinstance(row, RejectedRow)]
    assert reasons == [RejectReason.BROKEN_ROW, RejectReason.BAD_PRICE, RejectReason.MISSING_CATEGORY]
    patched = [row.reason for row in rows_of(tmp_path, ChangeKind(patch=("price",))) if isinstance(row, RejectedRow)]
    assert patched == [RejectReason.BROKEN_ROW, RejectReason.BAD_PRICE]


def test_a_photo_that_is_not_there_is_told_and_left_out(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"id": "a", "image": "missing.png"})
    for kind in (ChangeKind(), ChangeKind(patch=("image",))):
        (row,) = changes_of(tmp_path, kind)
        assert row.unused_photo is not None
        assert not row.change.upsert.product.image
        assert not row.change.patch.product.image


def test_a_table_without_the_columns_and_fields_that_cannot_be_patched_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path, "id,price\na,1\n")
    with pytest.raises(BadCatalogue, match="no column category"):
        rows_of(tmp_path, ChangeKind())
    with pytest.raises(BadCatalogue, match="no column shop"):
        rows_of(tmp_path, ChangeKind(patch=("shop",)))
    for field in ("id", "revision", "colour"):
        with pytest.raises(BadSettings, match=field):
            ChangeKind(patch=(field,))
    with pytest.raises(BadSettings, match="exclude"):
        ChangeKind(remove=True, patch=("price",))


def test_rows_are_stamped_with_the_time_in_the_unit_of_the_catalogue() -> None:
    assert stamp("ms", 12.5, None) == 12_500
    assert stamp("s", 12.5, None) == 12
    assert stamp("none", 12.5, None) == 0
    assert stamp("none", 12.5, 9) == 9
