"""The full vectors of one space on disk, and the product row of each: mapped .npy files. Does file I/O."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

StoredVectors = npt.NDArray[np.float32] | npt.NDArray[np.float16]
RESCORE_DTYPES = ("float32", "float16")  # The stored type of full vectors; scores are computed from what is stored.
# Vectors begin on a page boundary, so that one of 1024 float32 lies in one page and not in two.
PAGE_BYTES = 4096
_LIBC = ctypes.CDLL(None)  # NumPy has no public access to the mapping of an array, on which mmap could be asked.
_MAGIC = b"\x93NUMPY\x01\x00"


def write_vectors(path: Path, chunks: Iterable[F32], *, documents: int, dim: int, rescore: str) -> None:
    """Write vectors (documents, dim), chunk by chunk, rounded to the type `rescore`."""
    dtype = np.dtype(rescore).newbyteorder("<")
    header = repr({"descr": dtype.str, "fortran_order": False, "shape": (documents, dim)})
    header_bytes = PAGE_BYTES - len(_MAGIC) - 2
    with path.open("wb") as file:
        file.write(
            _MAGIC + header_bytes.to_bytes(2, "little") + header.ljust(header_bytes - 1).encode("latin1") + b"\n"
        )
        for chunk in chunks:
            file.write(chunk.astype(dtype, copy=False).data)


def open_vectors(path: Path, *, rescore: str, at_random: bool = False) -> StoredVectors:
    """Map vectors (documents, dim). Raises BadArtifact when the file holds something else.

    at_random: rows will be read in random order, so the kernel must not read ahead. A query of 1,000,000 vectors that
    are not in memory then reads 279 pages, and 2,500 with an 8 MiB read-ahead (benchmarks/ngt_comparison.py).
    """
    vectors = _open_array(path, mmap.MADV_RANDOM if at_random else mmap.MADV_NORMAL)
    if vectors.ndim != 2 or vectors.dtype != np.dtype(rescore):
        raise BadArtifact(f"{path}: has {vectors.dtype} {vectors.shape}, expected {rescore} (n, dim)")
    return vectors


def read_ahead(vectors: StoredVectors) -> None:
    """Have the kernel begin to read mapped vectors, also where it would not read ahead. No effect on those in memory.

    A scan of 336 MB that were not in memory took 18 s so, and 34 s page by page; where they were, a call took 0.05 ms.
    """
    start = vectors.ctypes.data // PAGE_BYTES * PAGE_BYTES
    length = vectors.ctypes.data + vectors.nbytes - start
    _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_WILLNEED)


def open_rows(path: Path) -> I64:
    """Map rows (documents,) int64. Raises BadArtifact when the file holds something else."""
    rows = _open_array(path)
    if rows.ndim != 1 or rows.dtype != np.int64:
        raise BadArtifact(f"{path}: has {rows.dtype} {rows.shape}, expected int64 (n,)")
    return rows


def _open_array(path: Path, advice: int = mmap.MADV_NORMAL) -> npt.NDArray[Any]:
    try:
        try:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
            array._mmap.madvise(advice)  # NumPy has no public access to the mapping.
            return np.asarray(array)
        except ValueError:  # An array without elements cannot be mapped.
            return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
