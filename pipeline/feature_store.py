"""Stores computed vectors by encoder and by a digest of their input, so that each is computed once. Does file I/O.

STORE/<encoder>/part-000000.parquet …: digest (16 bytes), vector (dim float32). A part is written atomically, so an
interrupted update keeps the parts it has written. Vectors that no product needs any more stay until the encoder's
directory is deleted, which is safe: missing vectors are computed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import BadArtifact
from lookalike.vectors import F32

PART_ROWS = 1024  # 4 MiB at 1,024 dimensions; an interruption loses at most this many vectors.
_PART = re.compile(r"part-(\d{6,})\.parquet")


class FeatureStore:
    """The stored vectors of one encoder, by the hexadecimal digest of their input."""

    def __init__(self, directory: Path, dim: int) -> None:
        """Open or create the store of an encoder. Raises BadArtifact for a damaged part or one of another dimension."""
        self._directory = directory
        self._dim = dim
        directory.mkdir(parents=True, exist_ok=True)
        self._parts = sorted(path for path in directory.iterdir() if _PART.fullmatch(path.name))
        self._digests = {digest.hex() for part in self._parts for digest in _read_column(part, "digest", dim)}
        self._unwritten: dict[str, F32] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, digests: Sequence[str], vectors: F32) -> None:
        """Store vectors (n, dim) float32; ignores those whose digest is stored already."""
        for digest, vector in zip(digests, vectors, strict=True):
            if digest not in self._digests:
                self._digests.add(digest)
                self._unwritten[digest] = vector
        if len(self._unwritten) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the vectors added since the last part as a new part."""
        if not self._unwritten:
            return
        digests = pa.array([bytes.fromhex(digest) for digest in self._unwritten], pa.binary(16))
        rows = np.stack(list(self._unwritten.values())).astype("<f4", copy=False)
        vectors = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(4 * self._dim), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))]
        )
        number = int(self._parts[-1].stem.removeprefix("part-")) + 1 if self._parts else 0
        part = self._directory / f"part-{number:06d}.parquet"
        staged = part.with_suffix(".tmp")
        # The floats of unit vectors hardly compress.
        pq.write_table(pa.table({"digest": digests, "vector": vectors}), staged, compression="none")
        staged.replace(part)
        self._parts.append(part)
        self._unwritten = {}

    def gather(self, digests: Sequence[str], path: Path) -> F32:
        """Write the vectors of n digests to a new file. Returns it memory-mapped, (n, dim) float32.

        Raises KeyError if a digest is not stored.
        """
        self.flush()
        vectors: F32 = np.lib.format.open_memmap(path, "w+", "<f4", (len(digests), self._dim))
        rows_by_digest: dict[bytes, list[int]] = {}
        for row, digest in enumerate(digests):
            rows_by_digest.setdefault(bytes.fromhex(digest), []).append(row)
        for part in self._parts:
            for key, vector in _read_rows(part, self._dim):
                if (rows := rows_by_digest.pop(key, None)) is not None:
                    vectors[rows] = np.frombuffer(vector, "<f4")
        if rows_by_digest:
            raise KeyError(f"{len(rows_by_digest)} digests have no vector")
        return vectors


def _read_rows(part: Path, dim: int) -> Iterator[tuple[bytes, bytes]]:
    for batch in _open_part(part, dim).iter_batches(batch_size=PART_ROWS):
        yield from zip(batch["digest"].to_pylist(), batch["vector"].to_pylist(), strict=True)


def _read_column(part: Path, name: str, dim: int) -> list[bytes]:
    column: list[bytes] = _open_part(part, dim).read(columns=[name])[name].to_pylist()
    return column


def _open_part(part: Path, dim: int) -> Any:
    try:
        file = pq.ParquetFile(part)
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{part}: {error}; delete this file, and its vectors are computed again") from None
    if file.schema_arrow != pa.schema({"digest": pa.binary(16), "vector": pa.binary(4 * dim)}):
        raise BadArtifact(
            f"{part}: its vectors do not have {dim} dimensions; delete this file, and they are computed again"
        )
    return file
