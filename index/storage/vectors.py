"""The full vectors of one space on disk, and the row of each: .npy files, mapped. Does file I/O."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

Stored = npt.NDArray[np.float32] | npt.NDArray[np.float16]
RESCORES = ("float32", "float16")  # What they may be kept as; scores are of what is kept.
# So that a vector of 1024 float32, a page, lies in one page and not in two.
PAGE = 4096
_MAGIC = b"\x93NUMPY\x01\x00"


def write(path: Path, parts: Iterable[F32], *, documents: int, dim: int, rescore: str) -> None:
    """Rows (documents, dim) in parts, rounded to `rescore`."""
    kept = np.dtype(rescore).newbyteorder("<")
    described = repr({"descr": kept.str, "fortran_order": False, "shape": (documents, dim)})
    room = PAGE - len(_MAGIC) - 2
    with path.open("wb") as file:
        file.write(_MAGIC + room.to_bytes(2, "little") + described.ljust(room - 1).encode("latin1") + b"\n")
        for part in parts:
            file.write(part.astype(kept, copy=False).data)


def mapped(path: Path, *, rescore: str, at_random: bool = False) -> Stored:
    """(documents, dim). Raises BadArtifact when the file holds something else.

    at_random: rows will be read one here, one there, and the kernel is not to read ahead. A query of 1,000,000 vectors
    that are not in memory reads 279 pages so, and 2,500 otherwise, of a disk that reads 8 MiB ahead (ngt_comparison).
    """
    vectors = _array(path, mmap.MADV_RANDOM if at_random else mmap.MADV_NORMAL)
    if vectors.ndim != 2 or vectors.dtype != np.dtype(rescore):
        raise BadArtifact(f"{path}: {vectors.dtype} {vectors.shape}, not vectors in {rescore}")
    return vectors


def rows(path: Path) -> I64:
    """(documents,). Raises BadArtifact when the file holds something else."""
    found = _array(path)
    if found.ndim != 1 or found.dtype != np.int64:
        raise BadArtifact(f"{path}: {found.dtype} {found.shape}, not rows")
    return found


def _array(path: Path, advice: int = mmap.MADV_NORMAL) -> npt.NDArray[Any]:
    try:
        try:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
            array._mmap.madvise(advice)  # NumPy has no other way to it.
            return np.asarray(array)
        except ValueError:  # An array without elements cannot be mapped.
            return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
