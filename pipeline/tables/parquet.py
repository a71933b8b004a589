"""Rows of a Parquet file. Reads files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lookalike.errors import BadCatalogue
from pipeline.tables.record import Record

_BATCH_ROWS = 1024


def column_names(path: Path) -> list[str]:
    """The names of the columns. Raises BadCatalogue if the file cannot be read."""
    return list(_open(path).schema_arrow.names)


def records(path: Path) -> Iterator[Record]:
    """The rows. Raises BadCatalogue if the file cannot be read, at the first batch of rows that is damaged."""
    import pyarrow as pa

    line = 0
    try:
        for batch in _open(path).iter_batches(batch_size=_BATCH_ROWS):
            for fields in batch.to_pylist():
                line += 1
                yield Record(line, fields)
    except (pa.ArrowException, ValueError, OverflowError) as error:  # Python's: no UTF-8, a time after the year 9999.
        raise BadCatalogue(f"{path}: after row {line}: {error}") from None


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadCatalogue(f"{path}: {error}") from None
