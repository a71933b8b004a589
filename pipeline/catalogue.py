"""A catalogue on disk: a directory with products.jsonl, .csv or .parquet, and photos. Reads and writes files.

docs/catalogue.md states the format.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from lookalike.errors import BadCatalogue
from pipeline import table_reader
from pipeline.product import FIELDS, REQUIRED, Bad, Reason, Reject, Row, id_of, parsed, printable, shown

FILES = ("products.jsonl", "products.csv", "products.parquet")
IMAGES = "images"

log = logging.getLogger(__name__)


def file_of(directory: Path) -> Path:
    """The one products file of a catalogue. Raises BadCatalogue."""
    found = [directory / name for name in FILES if (directory / name).is_file()]
    if not found:
        raise BadCatalogue(f"{directory}: no catalogue here: it has no {', '.join(FILES)}")
    if len(found) > 1:
        raise BadCatalogue(f"{directory}: which one is it: {', '.join(path.name for path in found)}?")
    return found[0]


def read(directory: Path) -> Iterator[tuple[int, Row] | Reject]:
    """Every row of a catalogue in its order: the line it begins on and the product, or why it is none.

    Of rows with one id the first is taken. A photo is looked for, not opened. A field that no product has is warned
    of once. Raises BadCatalogue where the whole of it cannot be read.
    """
    file = file_of(directory)
    if (columns := table_reader.column_names(file)) is not None:
        _require(file, columns)
    root = directory.resolve()
    lines_of_ids: dict[str, int] = {}
    unknown: set[str] = set()
    for record in table_reader.records(file):
        if isinstance(record, table_reader.Broken):
            yield Reject(file=file.name, line=record.line, id="", reason=Reason.BROKEN_ROW, detail=record.detail)
            continue
        _warn_of_unknown(file, record, unknown)
        try:
            row = parsed(record.fields)
            _refuse_duplicate(row, lines_of_ids)
            _find_image(root, row)
        except Bad as bad:
            yield reject(file, record, bad)
            continue
        lines_of_ids[row.id] = record.line
        yield record.line, row


def reject(file: Path, record: table_reader.Record, bad: Bad) -> Reject:
    return Reject(file=file.name, line=record.line, id=id_of(record.fields), reason=bad.reason, detail=bad.detail)


def write(directory: Path, rows: Iterable[Row]) -> int:
    """Write products.jsonl whole, or not at all; how many rows it has."""
    part, count = directory / "products.jsonl.part", 0
    with part.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):  # noqa: B007  # the last one is the count
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
    part.replace(directory / "products.jsonl")
    return count


def new_directory(directory: Path) -> Path:
    """Make the directory of a new catalogue. Raises BadCatalogue where there is something already."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BadCatalogue(f"{directory}: not empty; a new catalogue needs a directory of its own")
    except OSError as error:
        raise BadCatalogue(f"{directory}: {error.strerror}") from None
    return directory


def _require(file: Path, columns: list[str]) -> None:
    if missing := [name for name in REQUIRED if name not in columns]:
        raise BadCatalogue(f"{file}: no column {' and no column '.join(missing)}; it has {', '.join(columns)}")


_UNKNOWN_FIELDS = 100  # Warned of at most: a file whose keys are data would fill the terminal.


def _warn_of_unknown(file: Path, record: table_reader.Record, known: set[str]) -> None:
    for name in record.fields:
        if name not in FIELDS and name not in known and len(known) < _UNKNOWN_FIELDS:
            known.add(name)
            log.warning("%s:%d: the field %s is no product's and is passed over", file.name, record.line, shown(name))


def _refuse_duplicate(row: Row, lines_of_ids: dict[str, int]) -> None:
    if (line := lines_of_ids.get(row.id)) is not None:
        raise Bad(Reason.DUPLICATE_ID, f"line {line} has it already")


def _find_image(root: Path, row: Row) -> None:
    if not row.image:
        return
    try:
        path = (root / row.image).resolve()
        there = path.is_file()
    except (OSError, RuntimeError):  # a name too long for the disk; a loop of links
        raise Bad(Reason.BAD_IMAGE_PATH, shown(row.image)) from None
    if not path.is_relative_to(root):
        raise Bad(Reason.BAD_IMAGE_PATH, f"{shown(row.image)} leads out of the catalogue's directory")
    if not there:
        raise Bad(Reason.MISSING_IMAGE, f"there is no file {printable(row.image)}")
