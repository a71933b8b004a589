"""Rows of CSV, with any delimiter, from the lines of a file. Pure but for the lines it reads."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from pipeline.tables.record import MAX_ROW_CHARS, BrokenRecord, Record
from pipeline.tables.text_file import LineReader, LongRow


def read_rows(lines: LineReader, delimiter: str) -> Iterator[tuple[int, list[str]] | BrokenRecord]:
    """The cells of each row that is not empty, with the number of its first line.

    A quote that is not closed breaks its own row only: the lines after the first are read again, as rows.
    """
    csv.field_size_limit(MAX_ROW_CHARS)  # By default a cell of more than 128 KiB is an error, even if nobody reads it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_row()
        line = lines.number
        try:
            cells = next(reader, None)
        except (csv.Error, LongRow) as error:
            too_long = isinstance(error, LongRow)
            yield BrokenRecord(line, f"over {MAX_ROW_CHARS} characters" if too_long else f"not CSV: {error}")
            lines.reread()
        else:
            if cells is None:
                return
            if any(cells):
                yield line, cells


def records(
    rows: Iterator[tuple[int, list[str]] | BrokenRecord], names: Sequence[str]
) -> Iterator[Record | BrokenRecord]:
    """The rows as records. Cells beyond the last column are allowed where they are empty, as Excel writes them."""
    width, all_named = len(names), all(names)
    for row in rows:
        if isinstance(row, BrokenRecord):
            yield row
            continue
        line, cells = row
        if len(cells) != width and (len(cells) < width or any(cells[width:])):
            yield BrokenRecord(line, f"{len(cells)} columns, expected {width}")
        elif all_named:
            yield Record(line, dict(zip(names, cells, strict=False)))
        else:
            yield Record(line, {name: cell for name, cell in zip(names, cells, strict=False) if name})
