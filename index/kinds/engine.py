"""faiss, as all kinds use it: its threads, copies and samples."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from index.storage.vectors import Stored
from lookalike.errors import BadArtifact
from lookalike.vectors import F32

faiss: Any = import_module("faiss")  # The type stubs it ships lack most of what is used here.

REVISION = 2  # To be raised when the same vectors come to be trained, or measured, in another way.
_CHUNK = 1 << 14


def build_tag() -> str:
    """What else than the vectors decides the answers: other builds of faiss may train other codes."""
    return f"{faiss.__version__}/{REVISION}"


def use_threads(threads: int) -> None:
    """How many threads faiss may use for a call from the calling thread."""
    faiss.omp_set_num_threads(threads)


def copied(index: Any) -> Any:
    """A copy that owns all its parts."""
    return faiss.deserialize_index(faiss.serialize_index(index))


def size_bytes(index: Any) -> int:
    """In memory, which is what is written: codes, ids, links, centroids and matrices are kept as they are."""
    return int(faiss.serialize_index(index).nbytes)


def write(index: Any, path: Path) -> None:
    faiss.write_index(index, str(path))


def read(path: Path) -> Any:
    """Into memory. Raises BadArtifact."""
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:  # faiss has no other.
        raise BadArtifact(f"{path}: {error}") from error


def sample(vectors: Stored, size: int, random: np.random.Generator) -> F32:
    if size >= len(vectors):
        return wide(vectors)
    return wide(vectors[np.sort(random.choice(len(vectors), size, replace=False))])


def wide(vectors: Stored) -> F32:
    """As faiss wants them."""
    return np.ascontiguousarray(vectors, dtype=np.float32)


def chunks(vectors: Stored) -> Iterator[F32]:
    """All of them, possibly from a memory mapping, a few at a time."""
    return (wide(vectors[start : start + _CHUNK]) for start in range(0, len(vectors), _CHUNK))
