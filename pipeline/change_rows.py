"""The rows of a products file as changes: each an upsert, a patch of some fields, or a removal. Reads files.

Rows are held to the rules of a catalogue; one that breaks them is a RejectedRow, as in `catalog check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import BadCatalogue, BadSettings
from lookalike.product_rules import (
    REVISION_UNITS,
    BadField,
    CatalogueProduct,
    RejectReason,
    check_revision,
    parse_field,
    revision_at,
)
from lookalike.runtime.product_fields import PATCHABLE_FIELDS
from lookalike.v1.catalog_pb2 import Change, PatchRequest, RemoveRequest, UpsertRequest
from lookalike.v1.types_pb2 import Product
from pipeline import catalogue
from pipeline.catalogue import CatalogueRow, PhotoFiles, rejected_row
from pipeline.product import PhotoError, RejectedRow, UnusedPhoto, plain_id
from pipeline.tables import reader
from pipeline.tables.reader import Table
from pipeline.tables.record import BrokenRecord, Record

_ENCODED_FIELDS = frozenset({"title", "description", "image"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeKind:
    """What each row is: an upsert of the whole product, unless it is a removal or a patch of these fields."""

    remove: bool = False
    patch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if self.remove and self.patch:
            raise BadSettings("--remove and --patch exclude each other")
        for field in self.patch:
            if field not in PATCHABLE_FIELDS:
                raise BadSettings(f"--patch {field}: not one of {', '.join(sorted(PATCHABLE_FIELDS))}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a table must have."""
        return ("id",) if self.remove else ("id", *self.patch) if self.patch else ("id", "category")


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A row that is a change."""

    line: int
    change: Change
    product: CatalogueProduct | None = None  # Of an upsert.
    unused_photo: UnusedPhoto | None = None
    notices: tuple[str, ...] = ()


def open_changes(source: Path, options: reader.TableOptions, kind: ChangeKind) -> tuple[Path, Table]:
    """The folder that photos are below, and the table, of a catalogue's directory or a products file.

    Raises BadCatalogue if it cannot be read, or lacks a column.
    """
    file = catalogue.find_products_file(source) if source.is_dir() else source
    table = reader.open_table(file, options, wanted=kind.columns)
    reader.require_columns(table, kind.columns, BadCatalogue)
    return file.parent, table


def read_changes(
    directory: Path, table: Table, kind: ChangeKind, *, revision: int
) -> Iterator[ChangeRow | RejectedRow]:
    """The changes in order. revision: of rows that state none; 0: such a row is rejected."""
    file = table.path.name
    if not (kind.remove or kind.patch):
        for row in catalogue.read_table(directory, table):
            yield row if isinstance(row, RejectedRow) else _upsert(file, row, revision)
        return
    photos, ids = PhotoFiles(directory), dict[str, int]()
    for record in table.records():
        if isinstance(record, BrokenRecord):
            yield RejectedRow(file=file, line=record.line, id="", reason=RejectReason.BROKEN_ROW, detail=record.detail)
            continue
        try:
            yield _patch_or_removal(table, record, kind, photos=photos, ids=ids, default_revision=revision)
        except BadField as bad:
            yield rejected_row(file, record.line, record.fields, bad)


def stamp(unit: str, now_s: float, stated: int | None) -> int:
    """The revision of rows that state none: the stated one, else now in the catalogue's unit; 0: there is none."""
    if unit not in REVISION_UNITS:
        raise BadSettings(f"--revision-unit {unit}: not one of {', '.join(REVISION_UNITS)}")
    return revision_at(unit, now_s) if stated is None else stated


def _upsert(file: str, row: CatalogueRow, revision: int) -> ChangeRow | RejectedRow:
    product = row.product
    try:
        stated = _stamped(product.revision, revision)
    except BadField as bad:
        return rejected_row(file, row.line, {"id": product.id}, bad)
    # As a nightly update keeps it, though no search may find it.
    request = UpsertRequest(product=product_message(product), revision=stated, encode=True, allow_unfindable=True)
    return ChangeRow(row.line, Change(upsert=request), product, row.unused_photo, row.notices)


def _patch_or_removal(
    table: Table, record: Record, kind: ChangeKind, *, photos: PhotoFiles, ids: dict[str, int], default_revision: int
) -> ChangeRow:
    notices: list[str] = []
    fields = record.fields
    product_id = parse_field("id", plain_id(fields.get("id")), notices)
    if (line := ids.get(product_id)) is not None:
        raise BadField("id", RejectReason.DUPLICATE_ID, f"line {line} has the same id")
    revision = parse_field("revision", fields.get("revision"), notices)
    check_revision(revision, table.max_revision)
    revision = _stamped(revision, default_revision)
    ids[product_id] = record.line
    if kind.remove:
        return ChangeRow(record.line, Change(remove=RemoveRequest(product_id=product_id, revision=revision)))
    given = [field for field in kind.patch if field in fields]
    if not given:
        detail = f"has none of the fields {', '.join(kind.patch)}"
        raise BadField(kind.patch[0], RejectReason.BROKEN_ROW, detail)
    request = PatchRequest(revision=revision, encode=not _ENCODED_FIELDS.isdisjoint(given))
    request.product.id = product_id
    unused = None
    for field in given:
        value: Any = parse_field(field, fields[field], notices)
        if field == "image":
            try:
                value = photos.find(fields[field])
            except PhotoError as error:
                value = ""
                unused = UnusedPhoto(
                    file=table.path.name,
                    line=record.line,
                    id=product_id,
                    reason=error.reason,
                    detail=error.detail,
                )
        _set(request.product, field, value)
    request.update_mask.paths.extend(given)
    return ChangeRow(record.line, Change(patch=request), None, unused, tuple(notices))


def _stamped(revision: int, default: int) -> int:
    if not (revision or default):
        raise BadField("revision", RejectReason.BAD_REVISION, "the row states no revision, and there is none for all")
    return revision or default


def product_message(product: CatalogueProduct) -> Product:
    """The product as a change has it: without a revision, which is the change's."""
    message = Product()
    for field in _FIELDS:
        _set(message, field, getattr(product, field))
    return message


_FIELDS: Sequence[str] = tuple(field for field in CatalogueProduct.__dataclass_fields__ if field != "revision")


def _set(message: Product, field: str, value: Any) -> None:
    if field == "tags":
        message.tags[:] = value
    elif value is not None:
        setattr(message, field, value)
