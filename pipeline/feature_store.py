"""Vectors that were computed once, kept by what they were computed from and by which encoder. Reads and writes Parquet.

STORE/<encoder>/part-000000.parquet …: digest (16 bytes), vector (dim float32). A part is written whole or not at all,
so a run that is interrupted keeps what it had flushed. What no product needs any more stays until its folder is
deleted: it is encoded again when it is needed again.
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

PART_ROWS = 1024  # Parts of 4 MiB at 1,024 dimensions: what an interruption costs at most.
_PART = re.compile(r"part-(\d{6,})\.parquet")


class Features:
    """The vectors of one encoder."""

    def __init__(self, directory: Path, dim: int) -> None:
        """Raises BadArtifact for a part that is damaged or of another dimension."""
        self._directory = directory
        self._dim = dim
        directory.mkdir(parents=True, exist_ok=True)
        self._parts = sorted(path for path in directory.iterdir() if _PART.fullmatch(path.name))
        self._known = {digest.hex() for part in self._parts for digest in _column(part, "digest", dim)}
        self._waiting: dict[str, F32] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, digests: Sequence[str], vectors: F32) -> None:
        """Keep vectors (n, dim); those known already are as good as the new ones."""
        for digest, vector in zip(digests, vectors, strict=True):
            if digest not in self._known:
                self._known.add(digest)
                self._waiting[digest] = vector
        if len(self._waiting) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one part."""
        if not self._waiting:
            return
        digests = pa.array([bytes.fromhex(digest) for digest in self._waiting], pa.binary(16))
        rows = np.stack(list(self._waiting.values())).astype("<f4", copy=False)
        vectors = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(4 * self._dim), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))]
        )
        number = int(self._parts[-1].stem.removeprefix("part-")) + 1 if self._parts else 0
        part = self._directory / f"part-{number:06d}.parquet"
        staged = part.with_suffix(".tmp")
        # Floats of unit vectors hardly compress.
        pq.write_table(pa.table({"digest": digests, "vector": vectors}), staged, compression="none")
        staged.replace(part)
        self._parts.append(part)
        self._waiting = {}

    def gathered(self, digests: Sequence[str], path: Path) -> F32:
        """(n, dim) float32, one row for each digest, memory-mapped from a new file. All must be known."""
        self.flush()
        gathered: F32 = np.lib.format.open_memmap(path, "w+", "<f4", (len(digests), self._dim))
        places: dict[bytes, list[int]] = {}
        for place, digest in enumerate(digests):
            places.setdefault(bytes.fromhex(digest), []).append(place)
        for part in self._parts:
            for key, vector in _rows(part, self._dim):
                if (wanted := places.pop(key, None)) is not None:
                    gathered[wanted] = np.frombuffer(vector, "<f4")
        if places:
            raise KeyError(f"{len(places)} digests have no vector")
        return gathered


def _rows(part: Path, dim: int) -> Iterator[tuple[bytes, bytes]]:
    for batch in _opened(part, dim).iter_batches(batch_size=PART_ROWS):
        yield from zip(batch["digest"].to_pylist(), batch["vector"].to_pylist(), strict=True)


def _column(part: Path, name: str, dim: int) -> list[bytes]:
    column: list[bytes] = _opened(part, dim).read(columns=[name])[name].to_pylist()
    return column


def _opened(part: Path, dim: int) -> Any:
    try:
        file = pq.ParquetFile(part)
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{part}: {error}; delete it, and what was in it is encoded again") from None
    if file.schema_arrow != pa.schema({"digest": pa.binary(16), "vector": pa.binary(4 * dim)}):
        raise BadArtifact(f"{part}: no vectors of {dim} dimensions; delete it, and what was in it is encoded again")
    return file
