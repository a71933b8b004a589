"""Rows of JSON lines: one object on each. Pure but for the lines it reads."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator

from pipeline.tables.record import MAX_ROW_CHARS, BrokenRecord, Record
from pipeline.tables.text_file import LineReader, LongRow

# Not strict: a control character within a text is the concern of the field that it is in, as in CSV.
_DECODER = json.JSONDecoder(strict=False)


def records(lines: LineReader) -> Iterator[Record | BrokenRecord]:
    """The objects of all lines that are not blank."""
    while True:
        lines.begin_row()
        number = lines.number
        try:
            line = next(lines, None)
        except LongRow:
            yield BrokenRecord(number, f"over {MAX_ROW_CHARS} characters")
            continue
        if line is None:
            return
        if text := line.strip(" \t\r\n\ufeff"):
            yield _record(number, text)


def _record(number: int, text: str) -> Record | BrokenRecord:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return BrokenRecord(number, f"not JSON: {error}")
    if not isinstance(value, dict):
        return BrokenRecord(number, "not a JSON object")
    if not all(map(str.isascii, value)):
        value = {unicodedata.normalize("NFC", name): field for name, field in value.items()}
    return Record(number, value)
