"""Writes the whole result of a query as a catalogue, for an update to start from. I/O: the database, and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from lookalike.errors import BadCatalogue
from lookalike.product_rules import BadField, CatalogueProduct, RejectReason
from pipeline import catalogue
from pipeline.catalogue_report import CatalogueReport
from pipeline.sync.database import Database
from pipeline.sync.rows import RowReader, SyncedRow, cursor_revision
from pipeline.sync.settings import SyncSettings
from pipeline.sync.state import REMOVED, Known, SyncState


def write_snapshot(
    settings: SyncSettings,
    database: Database,
    directory: Path | None,
    report: CatalogueReport,
    *,
    now_s: float,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write the products as the catalogue's products.jsonl, in place of an earlier one, when all are read.

    directory: None: only read. Revisions are those of events: stated, or the cursor's where it is a time.
    """
    with SyncState(None, source=str(settings.source)) as seen:
        products = _products(settings, database, report, seen, now_s=now_s, on_rows=on_rows)
        if directory is None:
            for _ in products:
                pass
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            others = [each.name for each in directory.glob("products.*") if each.name not in _OWN]
        except OSError as error:
            raise BadCatalogue(f"{directory}: {error.strerror}") from None
        if others:
            raise BadCatalogue(f"{directory}: has another products file: {', '.join(sorted(others))}")
        catalogue.write(directory, products)


_OWN = ("products.jsonl", "products.jsonl.part")


def _products(
    settings: SyncSettings,
    database: Database,
    report: CatalogueReport,
    seen: SyncState,
    *,
    now_s: float,
    on_rows: Callable[[int], None],
) -> Iterator[CatalogueProduct]:
    seen.begin_run()
    with database.read(None) as (columns, parts):
        reader = RowReader(settings, columns, now_s)
        for part in parts:
            rows = [reader.read(row) for row in part]
            known = set(seen.known([row.id for row in rows if row.product]))
            for row in rows:
                if (product := _product(reader, row, known, settings, report)) is not None:
                    seen.remember([(row.id, Known(seen.run, 0, REMOVED))])
                    yield product
            on_rows(len(rows))
    report.notice_assumptions(reader.notes)
    report.check_rejected()
    if not report.products:
        raise BadCatalogue(f"{reader.file}: no valid product in the result")


def _product(
    reader: RowReader, row: SyncedRow, known: set[str], settings: SyncSettings, report: CatalogueReport
) -> CatalogueProduct | None:
    """Count a row. None: it is bad, deleted or left out."""
    report.rows += 1
    bad, product = row.bad, row.product
    if product is not None and row.id in known:
        bad = BadField("id", RejectReason.DUPLICATE_ID, "an earlier row of the result has the same id")
    if bad is not None:
        report.reject(reader.rejected(row, bad))
        return None
    if product is None:
        report.filtered += 1
        return None
    known.add(row.id)
    if row.unused_photo is not None:
        report.note_unused_photo(row.unused_photo)
    for notice in row.notices:
        report.notice(f"{reader.file}:{row.line}: {notice}")
    report.count_product(product, has_photo=bool(product.image), file=reader.file, line=row.line)
    return dataclasses.replace(product, revision=product.revision or cursor_revision(row.cursor, settings))
