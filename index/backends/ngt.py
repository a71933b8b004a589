"""NGT, an optional dependency: a graph with a tree over full vectors. Reads and writes files.

It is offered for comparisons and for migrations from NGT.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from index.backends import faiss_support
from index.backends.vector_index import VectorIndex, rebuilt_without
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact, BadSettings
from lookalike.vectors import F32, I64

_EPSILONS = (0, 5, 10, 15, 20, 30, 40, 60)  # In hundredths.
_EDGES = 40  # Edges explored per node (NGT's default); each may cost a comparison.


class NgtIndex:
    """A `VectorIndex` whose search parameter is NGT's epsilon in hundredths.

    Epsilon is how much farther than the nearest node so far the graph is explored.
    """

    refine_factors: tuple[int, ...] = (1, 2, 4)

    def __init__(self, index: Any, directory: Path, dim: int) -> None:
        self._index = index
        self._directory = directory
        self.documents = int(index.get_num_of_objects())
        self.dim = dim

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        positions = np.full((len(queries), count), -1, dtype=np.int64)
        size = min(count, self.documents)
        for query, row in zip(queries, positions, strict=True):
            nearest = self._index.search(query, size=size, epsilon=search_parameter / 100, with_distance=False)
            row[: len(nearest)] = nearest
        return positions

    def search_parameters(self, depth: int) -> Iterable[int]:
        return _EPSILONS

    def cost(self, search_parameter: int) -> float:
        return _EDGES * 40 * (1 + search_parameter / 20)

    def with_vectors(self, vectors: StoredVectors) -> NgtIndex:
        """Builds a new graph: NGT has no training to reuse."""
        return train(vectors, 1)

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        return rebuilt_without(self, positions, vectors)

    def ram_bytes(self) -> int:
        """The size of the files, which NGT reads whole; what it allocates beside them is not counted."""
        return sum(file.stat().st_size for file in self._directory.iterdir())

    def write(self, path: Path) -> None:
        shutil.copytree(self._directory, path)


def read_index(path: Path, dim: int) -> NgtIndex:
    """Raises BadArtifact."""
    try:
        return NgtIndex(_import_ngt().Index(str(path), read_only=True, log_disabled=True), path, dim)
    except (RuntimeError, MemoryError) as error:  # MemoryError: a damaged file states a huge size.
        raise BadArtifact(f"{path}: {error}") from error


def train(vectors: StoredVectors, threads: int) -> NgtIndex:
    """An index over unit vectors (m, dim), which may be memory-mapped. Its files are temporary until `write`."""
    directory = Path(mkdtemp(prefix="lookalike-ngt-"))
    library = _import_ngt()
    library.create(str(directory), vectors.shape[1], distance_type="Normalized Cosine", object_type="Float")
    index = library.Index(str(directory), log_disabled=True)
    for chunk in faiss_support.float32_chunks(vectors):
        index.batch_insert(chunk, num_threads=threads)
    index.save()
    trained = NgtIndex(index, directory, vectors.shape[1])
    weakref.finalize(trained, shutil.rmtree, directory, ignore_errors=True)
    return trained


def _import_ngt() -> Any:
    try:
        return import_module("ngtpy")
    except ImportError as error:
        raise BadSettings(f"the recipe NGT needs the package ngt: pip install ngt ({error})") from error
