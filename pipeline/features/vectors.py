"""The vectors of one encoder, by the digest of the photo or text. Does disk and network I/O.

Blocking and thread-safe: for a thread beside an event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.vectors import F32, I64
from pipeline.features import part
from pipeline.features.key_index import Keys, keys_of
from pipeline.features.parts import Parts

PART_ROWS = 1024  # 4 MiB at 1,024 dimensions; an interruption loses at most this many vectors.


class VectorTable:
    """The stored vectors of one encoder, by the hexadecimal digest of their input (16 bytes)."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.dim = parts.format.dim
        self._pending: dict[bytes, tuple[F32, str, int]] = {}  # Vector, product, time; not in a part yet.
        self._lock = threading.RLock()  # Of _pending.

    def __str__(self) -> str:
        return str(self.parts.directory)

    def __contains__(self, digest: object) -> bool:
        return bool(self.contains([str(digest)])[0])

    def __len__(self) -> int:
        """The number of stored vectors, of one key the newest."""
        with self._lock:
            self.flush()
            return len(self.parts.index)

    def contains(self, digests: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n,) which of them have a vector."""
        keys = keys_of(digests)
        with self._lock:
            found = self.parts.find(keys).parts >= 0
            if self._pending:
                found |= np.fromiter((key in self._pending for key in _each(keys)), bool, len(keys))
        return found

    def lookup(self, digests: Sequence[str]) -> tuple[F32, npt.NDArray[np.bool_]]:
        """The vectors (n, dim) of digests, zeros where there is none; and which have one, (n,)."""
        vectors: F32 = np.zeros((len(digests), self.dim), np.float32)
        missing = self._read(keys_of(digests), vectors)
        has_vector = np.ones(len(digests), dtype=bool)
        has_vector[missing] = False
        return vectors, has_vector

    def add(self, digests: Sequence[str], vectors: F32, products: Sequence[str] | None = None) -> None:
        """Store vectors (n, dim), in place of those stored before; a full part is written at once.

        products: the product that each was computed for. Raises OperatorError if the part cannot be written.
        """
        if vectors.shape != (len(digests), self.dim):
            raise ValueError(f"vectors of shape {vectors.shape}, expected {(len(digests), self.dim)}")
        written_us = self.parts.next_time_us()
        rows = vectors.astype(np.float32)  # A copy: the caller's array may change before the part is written.
        with self._lock:
            for key, row, product in zip(_each(keys_of(digests)), rows, products or [""] * len(digests), strict=True):
                self._pending[key] = (row, product, written_us)
            if len(self._pending) >= PART_ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what was added since the last part. Raises OperatorError, and what was added can be written later."""
        with self._lock:
            if not self._pending:
                return
            vectors, products, times = zip(*self._pending.values(), strict=True)
            stacked: F32 = np.stack(vectors)
            self.parts.append(
                part.vector_table(
                    self.parts.format,
                    keys=b"".join(self._pending),
                    written_us=np.array(times, np.int64),
                    products=pa.array(products, pa.string()),
                    vectors=stacked,
                    checksums=part.checksums(stacked),
                )
            )
            self._pending = {}

    def close(self) -> None:
        self.flush()

    def refresh(self) -> None:
        """Read what other processes have stored since."""
        self.parts.refresh()

    def gather(self, digests: Sequence[str], path: Path) -> tuple[F32, I64]:
        """Write the vectors of n digests to a new .npy file. Returns it memory-mapped, (n, dim) float32.

        Returns besides the rows that have no vector, or a damaged one; they are zeros.
        """
        vectors: F32 = np.lib.format.open_memmap(path, "w+", "<f4", (len(digests), self.dim))
        return vectors, self._read(keys_of(digests), vectors)

    def read(self, digests: Sequence[str], vectors: F32, rows: I64) -> I64:
        """Fill rows of `vectors` with those of n digests. Returns the rows that have no vector."""
        read: F32 = np.zeros((len(digests), self.dim), np.float32)
        missing = self._read(keys_of(digests), read)
        vectors[rows] = read
        return rows[missing]

    def _read(self, keys: Keys, vectors: F32) -> I64:
        missing = self.parts.read_vectors(keys, vectors)
        vectors[missing] = 0
        with self._lock:
            if not self._pending:
                return missing
            for row, key in enumerate(_each(keys)):
                if (pending := self._pending.get(key)) is not None:
                    vectors[row] = pending[0]
            absent = [
                row for row, key in zip(missing.tolist(), _each(keys[missing]), strict=True) if key not in self._pending
            ]
        return np.array(absent, np.int64)


def _each(keys: Keys) -> list[bytes]:
    """Every key with its 16 bytes; NumPy strips zeros at the end."""
    data = keys.tobytes()
    return [data[start : start + keys.itemsize] for start in range(0, len(data), keys.itemsize)]
