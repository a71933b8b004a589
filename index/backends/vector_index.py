"""The interface that every ANN backend implements. Pure: a Protocol, and one method for graphs that cannot change."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np

from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64


class VectorIndex(Protocol):
    """An approximate index over (documents, dim) unit vectors. Immutable; many threads may search it at once.

    It returns candidates without scores; the caller rescores them with full vectors.
    `search_parameter` is the backend's own measure of search effort: nprobe (IVF), efSearch (HNSW), ef
    (SymphonyQG) or epsilon (NGT).
    """

    documents: int
    dim: int
    refine_factors: tuple[int, ...]  # Candidates per result that calibration tries, rising.

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        """(n, count) positions of likely neighbours, the likeliest first, −1 where fewer were found.

        At most 16 queries; the result for each does not depend on the others.
        """

    def search_parameters(self, depth: int) -> Iterable[int]:
        """The values that calibration tries for the `depth` nearest neighbours, rising."""

    def cost(self, search_parameter: int) -> float:
        """Estimated time of finding candidates, in units of comparing a query with one full vector."""

    def with_vectors(self, vectors: StoredVectors) -> VectorIndex:
        """A new index over other vectors (m, dim), possibly memory-mapped, with this one's training; takes one core."""

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        """The index as if these of its vectors were not in it, and what it holds then: to search for strangers.

        vectors: all that it holds. Meanwhile nobody else may use it.
        """

    def ram_bytes(self) -> int:
        """Memory of the whole index: codes, ids, graphs, centroids, matrices."""

    def write(self, path: Path) -> None:
        """Write it to a file, or to a directory of files."""


def rebuilt_without(
    index: VectorIndex, positions: I64, vectors: StoredVectors
) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
    """`VectorIndex.without` for an index that cannot hide a vector: a second one, for as much time as the first."""
    others = np.delete(vectors, positions, axis=0)
    return nullcontext((index.with_vectors(others), others))
