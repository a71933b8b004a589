"""The faiss module, and helpers of its backends: threads, copies, files, samples. Reads and writes files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

faiss: Any = import_module("faiss")  # The type stubs it ships lack most of what is used here.

TRAINING_REVISION = 5  # Increase it when training or calibration changes.
_CHUNK_VECTORS = 1 << 14
NONE: I64 = np.empty(0, dtype=np.int64)


class SearchParameters(dict[int, Any]):
    """faiss's search parameters of an IVF index by nprobe, kept: making them takes 6 µs."""

    def __missing__(self, nprobe: int) -> Any:
        parameters = self[nprobe] = faiss.SearchParametersIVF(nprobe=nprobe)
        return parameters


def build_tag() -> str:
    """faiss's version and our training revision: under another tag the same vectors may give another index."""
    return f"{faiss.__version__}/{TRAINING_REVISION}"


def use_threads(threads: int) -> None:
    """Set how many threads faiss may use for a call from the calling thread."""
    faiss.omp_set_num_threads(threads)


def clone(index: Any) -> Any:
    """A copy that owns all its parts."""
    return faiss.deserialize_index(faiss.serialize_index(index))


def index_bytes(index: Any) -> int:
    """The index's size in memory. It equals the file's: codes, ids, links, centroids, matrices are kept as written."""
    return int(faiss.serialize_index(index).nbytes)


def write_index(index: Any, path: Path) -> None:
    faiss.write_index(index, str(path))


def read_index(path: Path) -> Any:
    """Read an index into memory. Raises BadArtifact."""
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:  # The only exception that faiss raises.
        raise BadArtifact(f"{path}: {error}") from error


def sample_vectors(vectors: StoredVectors, size: int, random: np.random.Generator, held_out: I64 = NONE) -> F32:
    """A random sample of at most `size` of the vectors, in their order, and none of those at positions `held_out`."""
    positions = np.delete(np.arange(len(vectors)), held_out)
    if size < len(positions):
        positions = np.sort(random.choice(positions, size, replace=False))
    return as_float32(vectors if len(positions) == len(vectors) else vectors[positions])


def as_float32(vectors: StoredVectors) -> F32:
    """The vectors as faiss takes them: contiguous float32."""
    return np.ascontiguousarray(vectors, dtype=np.float32)


def float32_chunks(vectors: StoredVectors) -> Iterator[F32]:
    """All vectors, possibly memory-mapped, a chunk at a time."""
    return (as_float32(vectors[part]) for part in chunks(len(vectors)))


def chunks(count: int) -> Iterator[slice]:
    """So many vectors at a time as are copied at once."""
    return (slice(start, start + _CHUNK_VECTORS) for start in range(0, count, _CHUNK_VECTORS))
