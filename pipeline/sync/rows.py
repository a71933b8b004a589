"""Rows of a result as products and removals, by the mapping of columns and the rules for a product. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lookalike.errors import BadSettings
from lookalike.product_rules import (
    FIELDS,
    REQUIRED,
    BadField,
    CatalogueProduct,
    RejectReason,
    check_revision,
    max_revision,
    parse_field,
)
from pipeline.catalogue import photo_path
from pipeline.column_mapping import ColumnMapping, Note
from pipeline.product import PhotoError, RejectedRow, UnusedPhoto, parse_row, readable_id
from pipeline.sync.cells import cell, is_deleted, tags_cell
from pipeline.sync.cursor import Cursor, check_cursor, unix_us
from pipeline.sync.settings import SyncSettings

_US_PER_UNIT: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_MAX_AHEAD_US: Final = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedRow:
    """A row that speaks of one product."""

    line: int  # Of the result, from 1.
    id: str  # Empty: the row has no readable id.
    cursor: Cursor | None = None
    product: CatalogueProduct | None = None  # None: the row is deleted, left out by --where, or bad.
    left_out: bool = False
    bad: BadField | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # Of a bad row, for its report.
    revision: int = 0  # Stated by a column; 0: none is.
    unused_photo: UnusedPhoto | None = None
    notices: tuple[str, ...] = ()


def complete_mapping(mapping: ColumnMapping, columns: Sequence[str]) -> ColumnMapping:
    """With the columns that are called like a field, for the fields that the mapping does not have.

    Raises BadSettings if a column is missing.
    """
    own = {name: [name] for name in FIELDS if name in columns and name not in {*mapping.fields, *mapping.constants}}
    image = mapping.image or ("{image}" if own.pop("image", None) else "")
    full = dataclasses.replace(mapping, fields={**mapping.fields, **own}, image=image)
    if missing := sorted(full.columns() - set(columns)):
        raise BadSettings(f"no column {' and no column '.join(missing)} in the result; it has {', '.join(columns)}")
    if lacking := [
        name for name in REQUIRED if not full.default_category and name not in {**full.fields, **full.constants}
    ]:
        raise BadSettings(
            f"nothing gives the {lacking[0]} of a product: select a column AS {lacking[0]}, or give "
            f"--field {lacking[0]}=COLUMN; the result has {', '.join(columns)}"
        )
    return full


class RowReader:
    """Reads the rows of one result.

    columns: its columns. now_s: seconds since 1970, by which times that are far ahead are told.
    """

    def __init__(self, settings: SyncSettings, columns: Sequence[str], now_s: float) -> None:
        self._settings = settings
        self._mapping = complete_mapping(settings.mapping, columns)
        self._cursor = settings.source.cursor
        if settings.deleted and settings.deleted not in columns:
            raise BadSettings(f"no column {settings.deleted} (--deleted) in the result; it has {', '.join(columns)}")
        wanted = self._mapping.columns() | ({settings.deleted} - {""})
        self._columns = [(at, name) for at, name in enumerate(columns) if name in wanted]
        # The id is read first: of a row that is bad otherwise it says which product is still there.
        self._ids = ColumnMapping(fields={"id": self._mapping.fields["id"]})
        self._id_columns = [(at, name) for at, name in self._columns if name in self._ids.columns()]
        self._cursor_at = columns.index(self._cursor) if self._cursor else -1
        self._tags = [name for name in self._mapping.fields.get("tags", ()) if "{" not in name]
        self._max_revision = max_revision(settings.revision_unit, now_s)
        self._latest_us = int(now_s * 1e6) + _MAX_AHEAD_US
        self._line = 0
        self.notes: Counter[Note] = Counter()

    def read(self, row: Sequence[Any]) -> SyncedRow:
        self._line += 1
        cursor: Cursor | None = None
        fields: Mapping[str, Any] = {}
        try:
            fields = self._ids.product_fields(self._cells(row, self._id_columns))
            cursor = self._cursor_of(row)
            cells = self._cells(row, self._columns)
            fields = self._product_fields(cells)
            return self._row(cells, fields, cursor)
        except BadField as bad:
            return SyncedRow(line=self._line, id=_id_or_empty(fields), cursor=cursor, bad=bad, fields=fields)

    def _cells(self, row: Sequence[Any], columns: Sequence[tuple[int, str]]) -> dict[str, Any]:
        return {name: cell(name, row[at], self._settings.zone) for at, name in columns}

    def _row(self, cells: Mapping[str, Any], fields: Mapping[str, Any], cursor: Cursor | None) -> SyncedRow:
        line, deleted = self._line, self._settings.deleted
        is_gone = bool(deleted) and is_deleted(deleted, cells[deleted])
        if is_gone or not self._mapping.accepts(cells):
            product_id = _product_id(fields)
            revision = parse_field("revision", fields.get("revision"), [])
            check_revision(revision, self._max_revision)
            return SyncedRow(line=line, id=product_id, cursor=cursor, revision=revision, left_out=not is_gone)
        notices: list[str] = []
        product = parse_row(fields, notices, max_revision=self._max_revision)
        if self._settings.revision_unit == "none" and not product.revision:
            raise BadField("revision", RejectReason.BAD_REVISION, "the row has no revision")
        unused = None
        if image := self._mapping.image_name(cells):
            try:
                product = dataclasses.replace(product, image=photo_path(image))
            except PhotoError as error:
                unused = UnusedPhoto(file=self.file, line=line, id=product.id, reason=error.reason, detail=error.detail)
        return SyncedRow(
            line=line,
            id=product.id,
            cursor=cursor,
            product=product,
            revision=product.revision,
            unused_photo=unused,
            notices=tuple(notices),
        )

    @property
    def file(self) -> str:
        """What the rows are called in reports."""
        return self._settings.source.table or "query"

    def rejected(self, row: SyncedRow, bad: BadField) -> RejectedRow:
        """The report of a row that is not used."""
        product_id = row.id or readable_id(row.fields)
        return RejectedRow(file=self.file, line=row.line, id=product_id, reason=bad.reason, detail=bad.detail)

    def _product_fields(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        if self._tags:
            cells = {**cells, **{name: tags_cell(cells[name]) for name in self._tags}}
        fields = self._mapping.product_fields(cells, self.notes)
        if self._settings.revision_unit != "none":
            fields["revision"] = _revision_of(fields.get("revision"), self._settings)
        return fields

    def _cursor_of(self, row: Sequence[Any]) -> Cursor | None:
        if self._cursor_at < 0:
            return None
        try:
            cursor = check_cursor(row[self._cursor_at])
        except ValueError as error:
            raise BadField("", RejectReason.BAD_CURSOR, f"{self._cursor} {error}") from None
        moment_us = unix_us(cursor, self._settings.zone)
        if moment_us is not None and moment_us > self._latest_us:
            detail = f"{self._cursor} {cursor} is more than a day ahead of now"
            raise BadField("", RejectReason.BAD_CURSOR, detail)
        return cursor


def cursor_revision(cursor: Cursor | None, settings: SyncSettings) -> int:
    """The revision that a cursor gives in the settings' unit; 0: it is no time."""
    moment_us = None if cursor is None else unix_us(cursor, settings.zone)
    return 0 if moment_us is None else max(0, revision_at(moment_us, settings.revision_unit))


def revision_at(moment_us: int, unit: str) -> int:
    """A time in microseconds since 1970 as a revision; 0: revisions are no times."""
    if unit == "ns":
        return moment_us * 1000
    return moment_us // _US_PER_UNIT[unit] if unit in _US_PER_UNIT else 0


_NO_FIELDS: Final = {"category": "-"}


def _id_or_empty(fields: Mapping[str, Any]) -> str:
    try:
        return _product_id(fields)
    except BadField:
        return ""


def _product_id(fields: Mapping[str, Any]) -> str:
    return parse_row({**_NO_FIELDS, "id": fields.get("id")}).id


def _revision_of(value: Any, settings: SyncSettings) -> Any:
    """A revision that is a time as a number; anything else as it is."""
    if isinstance(value, str) and "-" not in value:
        return value
    moment_us = unix_us(value, settings.zone)
    return value if moment_us is None else max(0, revision_at(moment_us, settings.revision_unit))
