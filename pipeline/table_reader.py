"""Reads the rows of CSV, JSON lines and Parquet files one at a time. Reads files; knows nothing of products."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lookalike.errors import BadCatalogue

# A longer line is a broken row and is not kept in memory. A product is far smaller: a description has at most 64 KiB.
MAX_LINE_BYTES = 1 << 20
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table."""

    line: int  # Its first line, 1-based; in Parquet the number of the row.
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A row that cannot be parsed."""

    line: int
    detail: str


def read_records(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Record | BrokenRecord]:
    """Read the rows of a .csv, .tsv, .jsonl (each also with .gz) or .parquet file.

    columns: the names of the columns of a CSV file without a header line.
    Raises BadCatalogue if the file as a whole cannot be read.
    """
    try:
        yield from _read_by_suffix(path, columns)
    except (OSError, EOFError, zlib.error) as error:  # EOFError: a truncated gzip file
        raise BadCatalogue(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def column_names(path: Path) -> list[str] | None:
    """The column names in the header of a CSV or Parquet file; None for JSON lines."""
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if _format(path) == ".jsonl":
        return None
    with _open_binary(path) as binary, _open_text(binary) as text:
        return _header(path, csv.reader(text, delimiter=_delimiter(path), strict=True))


def _format(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _read_by_suffix(path: Path, columns: Sequence[str] | None) -> Iterator[Record | BrokenRecord]:
    suffix = _format(path)
    if suffix == ".parquet":
        yield from _parquet_records(path)
    elif suffix in (".jsonl", ".csv", ".tsv"):
        with _open_binary(path) as binary:
            if suffix == ".jsonl":
                yield from _json_records(binary)
            else:
                with _open_text(binary) as text:
                    yield from _csv_records(path, text, columns)
    else:
        raise BadCatalogue(f"{path}: not a .csv, .tsv, .jsonl or .parquet file")


def _open_binary(path: Path) -> IO[bytes]:
    try:
        return io.BufferedReader(gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise BadCatalogue(f"{path}: {error.strerror}") from None


def _json_records(binary: IO[bytes]) -> Iterator[Record | BrokenRecord]:
    number = 0
    while line := binary.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            _skip_line(binary, line)
            yield BrokenRecord(number, f"a line of more than {MAX_LINE_BYTES} bytes")
        elif line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield _json_record(number, line)


def _skip_line(binary: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = binary.readline(MAX_LINE_BYTES)


def _json_record(number: int, line: bytes) -> Record | BrokenRecord:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return BrokenRecord(number, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return BrokenRecord(number, f"not JSON: {error}")
    return Record(number, value) if isinstance(value, dict) else BrokenRecord(number, "not a JSON object")


def _open_text(binary: IO[bytes]) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 become lone surrogates, for which their row alone is refused, not the file.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(path: Path) -> str:
    return "\t" if _format(path) == ".tsv" else ","


def _csv_records(path: Path, text: io.TextIOWrapper, columns: Sequence[str] | None) -> Iterator[Record | BrokenRecord]:
    reader = csv.reader(_bounded_lines(text), delimiter=_delimiter(path), strict=True)
    names = list(columns) if columns else _header(path, reader)
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BrokenRecord(line, f"not CSV: {error}")
        else:
            if cells is None:
                return
            if cells:
                yield _csv_record(line, names, cells)
        line = reader.line_num + 1


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines, those over the limit in pieces. The csv module itself refuses a cell of more than 128 KiB."""
    while line := text.readline(MAX_LINE_BYTES):
        yield line


def _header(path: Path, reader: Any) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadCatalogue(f"{path}:1: not CSV: {error}") from None
    named = [name for name in names if name]
    if duplicates := {name for name in named if named.count(name) > 1}:
        raise BadCatalogue(f"{path}:1: two columns are called {', '.join(sorted(duplicates))}")
    return names


def _csv_record(line: int, names: Sequence[str], cells: Sequence[str]) -> Record | BrokenRecord:
    if len(cells) != len(names):
        return BrokenRecord(line, f"{len(cells)} columns, expected {len(names)}")
    return Record(line, {name: cell for name, cell in zip(names, cells, strict=True) if name})


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadCatalogue(f"{path}: {error}") from None


def _parquet_records(path: Path) -> Iterator[Record | BrokenRecord]:
    import pyarrow as pa

    line = 0
    try:
        for batch in _parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            for fields in batch.to_pylist():
                line += 1
                yield Record(line, fields)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadCatalogue(f"{path}: after row {line}: {error}") from None
