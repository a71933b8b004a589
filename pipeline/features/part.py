"""The format of a part: a Parquet file of rows by key, and what its footer says of it. Pure: bytes in, tables out.

Columns: key (16 bytes), written (when), checksum (of the vector), product (the product it was computed for), and those
of its kind. A part is one page a column where rows are of one size, uncompressed, so that the place of a row follows
from the footer, and any reader of Parquet reads it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import BadArtifact
from lookalike.strict_json import parse_json
from lookalike.vectors import F32, I64
from pipeline.features.key_index import KEY_BYTES, Rows

SCHEMA_VERSION = 1
_METADATA = b"lookalike.features"
_KEY_COLUMNS = ["key", "written", "checksum"]
_ONE_PAGE_BYTES = 1 << 30
_MAX_PAGE_HEADER_BYTES = 128  # pyarrow 26 writes 27 or 33.
_RECORD_GROUP_ROWS = 256  # Of parts without vectors: what is read to find one row.


class UnusablePart(Exception):
    """A file that is no part, or a damaged one. Its message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFormat:
    """What the parts of a directory hold. dim: of the vectors; 0: rows have the columns `record` instead."""

    kind: str
    dim: int = 0
    record: tuple[pa.Field, ...] = ()

    @property
    def row_bytes(self) -> int:
        return 4 * self.dim

    @property
    def schema(self) -> pa.Schema:
        required = [
            pa.field("key", pa.binary(KEY_BYTES), nullable=False),
            pa.field("written", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("checksum", pa.uint32(), nullable=False),
            pa.field("product", pa.string(), nullable=False),
        ]
        vector = [pa.field("vector", pa.binary(self.row_bytes), nullable=False)] if self.dim else []
        return pa.schema([*required, *vector, *self.record])


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFooter:
    """What a part says of itself."""

    rows: int
    replaces: frozenset[str]  # Names of parts whose rows, as far as they are needed, are in this one.
    created_us: int
    vectors_start: int  # Where the first vector is in the file.


def encode(table: pa.Table, part_format: PartFormat, *, created_us: int, replaces: Collection[str] = ()) -> pa.Buffer:
    """The bytes of a part of a table of `part_format.schema`."""
    about = {
        "schema_version": SCHEMA_VERSION,
        "kind": part_format.kind,
        "dim": part_format.dim,
        "created_us": created_us,
        "replaces": sorted(replaces),
    }
    group_rows = max(len(table), 1) if part_format.dim else _RECORD_GROUP_ROWS
    # Of a fixed size, since one that grows is copied again and again: five times the CPU.
    room = pa.allocate_buffer(table.nbytes + table.nbytes // 8 + (len(table) // group_rows + 256) * 4096)
    sink = pa.FixedSizeBufferWriter(room)
    pq.write_table(
        table.replace_schema_metadata({_METADATA: json.dumps(about)}),
        sink,
        row_group_size=group_rows,
        data_page_size=_ONE_PAGE_BYTES,
        max_rows_per_page=max(len(table), 1),
        compression="none",  # The floats of unit vectors hardly compress.
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return room.slice(0, sink.tell())


def decode_keys(file: Any, name: str, part_format: PartFormat, *, number: int) -> tuple[PartFooter, Rows]:
    """What an open part says of itself, and its keys, as rows of part `number`.

    Raises UnusablePart; BadArtifact for a part of another version of the schema.
    """
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        footer = _footer(parquet, name, part_format)
        table = parquet.read(columns=_KEY_COLUMNS, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # Of the disk or the network: the part may be whole.
        raise UnusablePart(f"damaged: {error}") from None
    count = len(table)
    return footer, Rows(
        keys=_fixed_size(table["key"], count, f"S{KEY_BYTES}"),
        written_us=table["written"].cast(pa.int64()).to_numpy(),
        parts=np.full(count, number, np.int32),
        rows=np.arange(count, dtype=np.int32),
        checksums=table["checksum"].to_numpy(),
    )


def read_dim(file: Any) -> int:
    """The dimension of the vectors of an open part; 0 if it has none, or is no part."""
    try:
        return int(parse_json((pq.ParquetFile(file).metadata.metadata or {})[_METADATA])["dim"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        return 0


def _footer(parquet: Any, name: str, part_format: PartFormat) -> PartFooter:
    metadata = parquet.metadata
    try:
        about = parse_json((metadata.metadata or {})[_METADATA])
        version, kind = about["schema_version"], about["kind"]
        replaces, created_us = frozenset(about["replaces"]), int(about["created_us"])
    except (KeyError, ValueError, TypeError, OverflowError):
        raise UnusablePart("not written by Lookalike") from None
    if version != SCHEMA_VERSION:
        raise BadArtifact(
            f"{name}: has version {version} of the schema of features, this program reads version {SCHEMA_VERSION}"
        )
    if kind != part_format.kind or not parquet.schema_arrow.equals(part_format.schema):
        raise UnusablePart(f"other columns than those of {part_format.kind} of {part_format.dim} dimensions")
    start = 0
    if part_format.dim and metadata.num_rows:
        column = metadata.row_group(0).column(part_format.schema.get_field_index("vector"))
        header = column.total_compressed_size - metadata.num_rows * part_format.row_bytes
        if metadata.num_row_groups != 1 or not 0 < header < _MAX_PAGE_HEADER_BYTES or column.data_page_offset < 0:
            raise UnusablePart("its vectors are not on one page")
        start = column.data_page_offset + header
    return PartFooter(rows=metadata.num_rows, replaces=replaces, created_us=created_us, vectors_start=start)


def vector_table(
    part_format: PartFormat,
    *,
    keys: bytes,
    written_us: I64,
    products: pa.Array,
    vectors: F32,
    checksums: npt.NDArray[np.uint32],
) -> pa.Table:
    """Rows of vectors (n, dim) as a table."""
    count = len(vectors)
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    return pa.Table.from_arrays(
        [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), count, [None, pa.py_buffer(keys)]),
            pa.array(written_us, pa.timestamp("us", "UTC")),
            pa.array(checksums, pa.uint32()),
            products,
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(part_format.row_bytes), count, [None, pa.py_buffer(rows.reshape(-1))]
            ),
        ],
        schema=part_format.schema,
    )


def checksums(vectors: F32) -> npt.NDArray[np.uint32]:
    """(n,) the sum of the 32-bit words of each row, 64 bits folded to 32.

    A sum, and not a CRC, since it is verified with every read: 6 GB a second on a core, where zlib's CRC does 1.
    """
    sums = vectors.view(np.uint32).sum(axis=1, dtype=np.uint64)
    folded: npt.NDArray[np.uint32] = (sums ^ (sums >> np.uint64(32))).astype(np.uint32)
    return folded


def _fixed_size(column: pa.ChunkedArray, count: int, dtype: str) -> Any:
    if not count:
        return np.empty(0, dtype)
    array = column.combine_chunks()
    return np.frombuffer(array.buffers()[1], dtype, count, array.offset * np.dtype(dtype).itemsize)
