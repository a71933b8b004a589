"""Rows of CSV, JSON lines and Parquet files, one at a time: reads files, knows nothing of products."""

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

# A line beyond this is a broken row, not memory: no product comes near it (a description has 64 KiB at most).
LINE_BYTES = 1 << 20
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Record:
    line: int  # Where it begins, 1-based; in Parquet the number of the row.
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    line: int
    detail: str


def records(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Record | Broken]:
    """The rows of a file by the end of its name: .csv, .tsv, .jsonl (each also with .gz), .parquet.

    columns: the names of the columns of a CSV file that has no line with them.
    Raises BadCatalogue where the file as a whole cannot be read.
    """
    try:
        yield from _by_suffix(path, columns)
    except (OSError, EOFError, zlib.error) as error:  # gzip: EOFError where a file ends too early
        raise BadCatalogue(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def column_names(path: Path) -> list[str] | None:
    """The columns that a file states once for all rows; JSON lines state none."""
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if _kind(path) == ".jsonl":
        return None
    with _opened(path) as binary, _decoded(binary) as text:
        return _header(path, csv.reader(text, delimiter=_delimiter(path), strict=True))


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _by_suffix(path: Path, columns: Sequence[str] | None) -> Iterator[Record | Broken]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _parquet_records(path)
    elif kind in (".jsonl", ".csv", ".tsv"):
        with _opened(path) as binary:
            if kind == ".jsonl":
                yield from _json_records(binary)
            else:
                with _decoded(binary) as text:
                    yield from _csv_records(path, text, columns)
    else:
        raise BadCatalogue(f"{path}: not a .csv, .tsv, .jsonl or .parquet file")


def _opened(path: Path) -> IO[bytes]:
    try:
        return io.BufferedReader(gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise BadCatalogue(f"{path}: {error.strerror}") from None


def _json_records(binary: IO[bytes]) -> Iterator[Record | Broken]:
    number = 0
    while line := binary.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            _skip_line(binary, line)
            yield Broken(number, f"a line of more than {LINE_BYTES} bytes")
        elif line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield _json_record(number, line)


def _skip_line(binary: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = binary.readline(LINE_BYTES)


def _json_record(number: int, line: bytes) -> Record | Broken:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Broken(number, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return Broken(number, f"not JSON: {error}")
    return Record(number, value) if isinstance(value, dict) else Broken(number, "not a JSON object")


def _decoded(binary: IO[bytes]) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 come through as halves of surrogate pairs: their row is refused, not the file.
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _delimiter(path: Path) -> str:
    return "\t" if _kind(path) == ".tsv" else ","


def _csv_records(path: Path, text: io.TextIOWrapper, columns: Sequence[str] | None) -> Iterator[Record | Broken]:
    reader = csv.reader(_bounded_lines(text), delimiter=_delimiter(path), strict=True)
    names = list(columns) if columns else _header(path, reader)
    line = reader.line_num + 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Broken(line, f"not CSV: {error}")
        else:
            if cells is None:
                return
            if cells:
                yield _csv_record(line, names, cells)
        line = reader.line_num + 1


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Lines, in pieces where one is over the bound: a cell of more than 128 KiB is the csv module's own error."""
    while line := text.readline(LINE_BYTES):
        yield line


def _header(path: Path, reader: Any) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadCatalogue(f"{path}:1: not CSV: {error}") from None
    stated = [name for name in names if name]
    if twice := {name for name in stated if stated.count(name) > 1}:
        raise BadCatalogue(f"{path}:1: two columns are called {', '.join(sorted(twice))}")
    return names


def _csv_record(line: int, names: Sequence[str], cells: Sequence[str]) -> Record | Broken:
    if len(cells) != len(names):
        return Broken(line, f"{len(cells)} columns, not {len(names)}")
    return Record(line, {name: cell for name, cell in zip(names, cells, strict=True) if name})


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadCatalogue(f"{path}: {error}") from None


def _parquet_records(path: Path) -> Iterator[Record | Broken]:
    import pyarrow as pa

    line = 0
    try:
        for batch in _parquet(path).iter_batches(batch_size=_BATCH_ROWS):
            for fields in batch.to_pylist():
                line += 1
                yield Record(line, fields)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadCatalogue(f"{path}: after row {line}: {error}") from None
