"""Opens a table of any kind that is read: its columns, its rows one at a time, and what was assumed. Reads files."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import BadCatalogue, BadSettings
from lookalike.product_rules import DEFAULT_REVISION_UNIT, max_revision
from lookalike.timestamps import unix_time_s
from pipeline.tables import delimited, delimiter, excel, json_lines, parquet
from pipeline.tables.encoding import NotUtf8
from pipeline.tables.record import BrokenRecord, Record
from pipeline.tables.text_file import file_encoding, open_lines

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".xlsx", ".parquet")
COMPRESSIBLE = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")  # Also with .gz.
KINDS = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file (text files also with .gz)"

Rows = Iterator[tuple[int, list[Any]] | BrokenRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table is read, where its file does not tell."""

    encoding: str = ""  # Of a text file; empty: its byte order mark's, else UTF-8.
    usual_encoding: str = ""  # Of files of this kind that are not UTF-8; empty: these are refused.
    delimiter: str = ""  # Of CSV; empty: from the line `sep=;`, else from the header.
    columns: tuple[str, ...] = ()  # The names of the columns of a table without a header line.
    sheet: str = ""  # Of an Excel file; empty: the first.
    revision_unit: str = DEFAULT_REVISION_UNIT  # One of REVISION_UNITS.


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read. Its rows can be read more than once."""

    path: Path
    columns: list[str] | None  # None: JSON lines, in which each row names its own.
    notices: tuple[str, ...]  # What was assumed of the file, for whoever runs the command.
    _read: Callable[[], Iterator[Record | BrokenRecord]]
    max_revision: int = 0  # Of a row of a catalogue; 0: any is allowed.

    def records(self) -> Iterator[Record | BrokenRecord]:
        """The rows in order. Raises BadCatalogue if the file cannot be read on."""
        try:
            yield from self._read()
        except (OSError, EOFError, zlib.error, UnicodeError) as error:  # EOFError: a truncated gzip file
            raise BadCatalogue(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None


DEFAULT_OPTIONS = TableOptions()


def suffix(path: Path) -> str:
    """The kind of a table by the suffix of its name: lower case, without .gz. Empty: not a table."""
    name = path.name.lower()
    kinds = COMPRESSIBLE if name.endswith(".gz") else SUFFIXES
    ending = Path(name.removesuffix(".gz")).suffix
    return ending if ending in kinds else ""


def open_table(path: Path, options: TableOptions = DEFAULT_OPTIONS, *, wanted: Collection[str] = ()) -> Table:
    """Open a table, reading its header. wanted: columns that will be asked for, which can tell the delimiter.

    Raises BadCatalogue if the file cannot be read at all.
    """
    greatest = max_revision(options.revision_unit, unix_time_s())
    return dataclasses.replace(_open_table(path, options, wanted), max_revision=greatest)


def _open_table(path: Path, options: TableOptions, wanted: Collection[str]) -> Table:
    kind = suffix(path)
    try:
        if kind == ".parquet":
            return Table(path, parquet.column_names(path), (), lambda: parquet.records(path))
        if kind == ".xlsx":
            return _excel_table(path, options)
        if kind:
            encoding, notices = _encoding(path, options)
            if kind in (".jsonl", ".ndjson"):
                return _json_table(path, encoding, notices)
            return _delimited_table(path, encoding, notices, options, wanted)
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise BadCatalogue(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    raise BadCatalogue(f"{path}: not {KINDS}")


def _encoding(path: Path, options: TableOptions) -> tuple[str, tuple[str, ...]]:
    """The encoding of a text file, and a notice if it was assumed."""
    try:
        return file_encoding(path, options.encoding), ()
    except NotUtf8:
        if not options.usual_encoding:
            raise
        return options.usual_encoding, (f"{path.name}: read as {options.usual_encoding}, since it is not UTF-8",)


def _json_table(path: Path, encoding: str, notices: tuple[str, ...]) -> Table:
    def read() -> Iterator[Record | BrokenRecord]:
        with open_lines(path, encoding) as lines:
            yield from json_lines.records(lines)

    return Table(path, None, notices, read)


def _excel_table(path: Path, options: TableOptions) -> Table:
    names = excel.sheet_names(path)
    with_rows = next(excel.read_rows(path, options.sheet), None)
    if isinstance(with_rows, BrokenRecord):
        raise BadCatalogue(f"{path}:{with_rows.line}: {with_rows.detail}")
    columns = list(options.columns) or _header(path, with_rows)

    def read() -> Iterator[Record | BrokenRecord]:
        rows = excel.read_rows(path, options.sheet)
        for row in rows if options.columns else itertools.islice(rows, 1, None):
            if isinstance(row, BrokenRecord):
                yield row
                continue
            number, cells = row
            # Rows end with their last cell that is not empty.
            padded = cells + [""] * (len(columns) - len(cells))
            yield from delimited.records(iter([(number, padded)]), columns)

    others = [name for name in names if name != (options.sheet or names[0])]
    notice = f"{path.name}: the sheet {options.sheet or names[0]} is read; others (--sheet): {', '.join(others)}"
    return Table(path, columns, (notice,) if others and not options.sheet else (), read)


def _delimited_table(
    path: Path, encoding: str, notices: tuple[str, ...], options: TableOptions, wanted: Collection[str]
) -> Table:
    usual = "\t" if suffix(path) == ".tsv" else ","
    with open_lines(path, encoding) as lines:
        first = _first_line(lines)
        stated = delimiter.sep_line(first)
        if stated:
            first = _first_line(lines)
    by = options.delimiter or stated or delimiter.sniff(first, usual, wanted=wanted, count=len(options.columns))

    def rows() -> Rows:
        with open_lines(path, encoding) as lines:
            if stated:
                next(lines)
            yield from delimited.read_rows(lines, by)

    header = None if options.columns else next(rows(), None)
    if isinstance(header, BrokenRecord):
        raise BadCatalogue(f"{path}:{header.line}: {header.detail}")
    columns = list(options.columns) or _header(path, header)

    def read() -> Iterator[Record | BrokenRecord]:
        all_rows = rows()
        return delimited.records(all_rows if options.columns else itertools.islice(all_rows, 1, None), columns)

    assumed = by != usual and not (options.delimiter or stated)
    notice = f"{path.name}: the columns are separated by {delimiter.NAMES.get(by, by)}"
    return Table(path, columns, (*notices, notice) if assumed else notices, read)


def _first_line(lines: Iterator[str]) -> str:
    return next((line for line in lines if line.strip()), "")


def _header(path: Path, row: tuple[int, list[Any]] | None) -> list[str]:
    """The names of the columns, in Unicode form NFC. Raises BadCatalogue if two are the same."""
    line, cells = row or (1, [])
    names = [unicodedata.normalize("NFC", str(cell)).strip() for cell in cells]
    named = [name for name in names if name]
    if duplicates := {name for name in named if named.count(name) > 1}:
        raise BadCatalogue(f"{path}:{line}: two columns are called {', '.join(sorted(duplicates))}")
    return names


def require_columns(table: Table, wanted: Collection[str], error: type[BadCatalogue | BadSettings]) -> None:
    """Raise an error if the table lacks columns, with a hint where the cause is the delimiter."""
    if table.columns is None or not (missing := sorted(set(wanted) - set(table.columns))):
        return
    names: Sequence[str] = table.columns
    hint = ""
    for candidate, word in delimiter.NAMES.items():
        if len(names) <= 2 and candidate in "".join(names):
            hint = f"; the columns seem to be separated by {word}: give --delimiter '{candidate}'"
            break
    raise error(f"{table.path.name}: no column {' and no column '.join(missing)}; it has {', '.join(names)}{hint}")
