"""Brute force over vectors in half precision: fast on a GPU, slow on a CPU. Reads and writes index files."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from index.backends import cost_model, faiss_support
from index.backends.faiss_support import faiss
from index.backends.recipe import HalfPrecisionRecipe
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64


class ScalarQuantizerIndex:
    """A `VectorIndex` without a search parameter: every vector is compared."""

    refine_factors: tuple[int, ...] = (1, 2)

    def __init__(self, index: Any, hidden: I64 = faiss_support.NONE) -> None:
        """hidden: positions of vectors that are not found."""
        self.index = index
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden)) if len(hidden) else None
        self._parameters = faiss.SearchParameters(sel=selector)
        self.documents = int(index.ntotal)
        self.dim = int(index.d)

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        positions: I64 = self.index.search(queries, count, params=self._parameters)[1]
        return positions

    def search_parameters(self, depth: int) -> Iterable[int]:
        return (1,)

    def cost(self, search_parameter: int) -> float:
        return cost_model.search_cost(HalfPrecisionRecipe(), self.documents, self.dim, search_parameter)

    def with_vectors(self, vectors: StoredVectors) -> VectorIndex:
        return build(vectors)

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        return nullcontext((ScalarQuantizerIndex(self.index, hidden=positions), vectors))

    def ram_bytes(self) -> int:
        return faiss_support.index_bytes(self.index)

    def write(self, path: Path) -> None:
        faiss_support.write_index(self.index, path)


def build(vectors: StoredVectors) -> ScalarQuantizerIndex:
    """An index over unit vectors (m, dim), which may be memory-mapped; there is nothing to train."""
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for chunk in faiss_support.float32_chunks(vectors):
        index.add(chunk)
    return ScalarQuantizerIndex(index)


def read_index(path: Path) -> ScalarQuantizerIndex:
    """Raises BadArtifact."""
    index = faiss_support.read_index(path)
    if not isinstance(index, faiss.IndexScalarQuantizer):
        raise BadArtifact(f"{path}: not an index of vectors in half precision")
    return ScalarQuantizerIndex(index)
