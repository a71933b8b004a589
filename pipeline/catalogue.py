"""Reads and writes a catalogue: a directory with products.jsonl, .csv or .parquet, and photos. Does file I/O.

docs/catalogue.md specifies the format.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from lookalike.errors import BadCatalogue
from lookalike.printable import escape_unprintable, quote
from lookalike.product_rules import FIELDS, REQUIRED, BadField, CatalogueProduct, RejectReason
from pipeline import table_reader
from pipeline.product import RejectedRow, parse_row, readable_id

FILES = ("products.jsonl", "products.csv", "products.parquet")
IMAGES = "images"

log = logging.getLogger(__name__)


def find_products_file(directory: Path) -> Path:
    """The only products file of a catalogue. Raises BadCatalogue if there is none, or more than one."""
    files = [directory / name for name in FILES if (directory / name).is_file()]
    if not files:
        raise BadCatalogue(f"{directory}: no catalogue here: it has none of {', '.join(FILES)}")
    if len(files) > 1:
        raise BadCatalogue(f"{directory}: more than one products file: {', '.join(path.name for path in files)}")
    return files[0]


def read(directory: Path) -> Iterator[tuple[int, CatalogueProduct] | RejectedRow]:
    """Read the rows of a catalogue in order: yields (line number, product), or a RejectedRow, for each.

    Of several rows with one id the first valid one is kept. Photos must exist but are not opened. An unknown field is
    warned of once. Raises BadCatalogue if the file cannot be read at all.
    """
    file = find_products_file(directory)
    if (columns := table_reader.column_names(file)) is not None:
        _require_columns(file, columns)
    root = directory.resolve()
    lines_by_id: dict[str, int] = {}
    warned: set[str] = set()
    for record in table_reader.read_records(file):
        if isinstance(record, table_reader.BrokenRecord):
            yield RejectedRow(
                file=file.name, line=record.line, id="", reason=RejectReason.BROKEN_ROW, detail=record.detail
            )
            continue
        _warn_of_unknown_fields(file, record, warned)
        try:
            product = parse_row(record.fields)
            _refuse_duplicate(product, lines_by_id)
            _check_image_exists(root, product)
        except BadField as bad:
            yield rejected_row(file, record, bad)
            continue
        lines_by_id[product.id] = record.line
        yield record.line, product


def rejected_row(file: Path, record: table_reader.Record, bad: BadField) -> RejectedRow:
    """The report of a record that is not a valid product."""
    return RejectedRow(
        file=file.name, line=record.line, id=readable_id(record.fields), reason=bad.reason, detail=bad.detail
    )


def write(directory: Path, products: Iterable[CatalogueProduct]) -> int:
    """Write products.jsonl atomically. Returns the number of products."""
    part, count = directory / "products.jsonl.part", 0
    with part.open("w", encoding="utf-8") as file:
        for count, product in enumerate(products, 1):  # noqa: B007  # the last one is the count
            file.write(json.dumps(dataclasses.asdict(product), ensure_ascii=False) + "\n")
    part.replace(directory / "products.jsonl")
    return count


def create_directory(directory: Path) -> Path:
    """Make the directory of a new catalogue. Raises BadCatalogue if it is not empty."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BadCatalogue(f"{directory}: not empty; a new catalogue needs an empty directory")
    except OSError as error:
        raise BadCatalogue(f"{directory}: {error.strerror}") from None
    return directory


def _require_columns(file: Path, columns: list[str]) -> None:
    if missing := [name for name in REQUIRED if name not in columns]:
        raise BadCatalogue(f"{file}: no column {' and no column '.join(missing)}; it has {', '.join(columns)}")


_MAX_UNKNOWN_FIELDS = 100  # Warned of: a file whose field names are data would fill the terminal.


def _warn_of_unknown_fields(file: Path, record: table_reader.Record, warned: set[str]) -> None:
    for name in record.fields:
        if name not in FIELDS and name not in warned and len(warned) < _MAX_UNKNOWN_FIELDS:
            warned.add(name)
            log.warning("%s:%d: the unknown field %s is ignored", file.name, record.line, quote(name))


def _refuse_duplicate(product: CatalogueProduct, lines_by_id: dict[str, int]) -> None:
    if (line := lines_by_id.get(product.id)) is not None:
        raise BadField("id", RejectReason.DUPLICATE_ID, f"line {line} has the same id")


def _check_image_exists(root: Path, product: CatalogueProduct) -> None:
    if not product.image or "://" in product.image:
        return
    try:
        path = (root / product.image).resolve()
        exists = path.is_file()
    except (OSError, RuntimeError):  # a name too long for the disk; a loop of links
        raise BadField("image", RejectReason.BAD_IMAGE, quote(product.image)) from None
    if not path.is_relative_to(root):
        raise BadField("image", RejectReason.BAD_IMAGE, f"{quote(product.image)} is outside the catalogue's directory")
    if not exists:
        raise BadField("image", RejectReason.MISSING_IMAGE, f"no file {escape_unprintable(product.image)}")
