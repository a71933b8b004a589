"""HNSW by faiss: a navigable small-world graph over full vectors or bytes. Reads and writes index files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from index.backends import cost_model, faiss_support
from index.backends.faiss_support import faiss
from index.backends.recipe import HnswRecipe
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_SQ_TRAINING_VECTORS = 1 << 14
_MIN_EF_SEARCH = 16


class HnswIndex:
    """A `VectorIndex` whose search parameter is efSearch."""

    refine_factors: tuple[int, ...] = (1, 2, 4)

    def __init__(self, index: Any, recipe: HnswRecipe) -> None:
        self._index = index
        self._recipe = recipe
        self.documents = int(index.ntotal)
        self.dim = int(index.d)

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        parameters = faiss.SearchParametersHNSW(efSearch=search_parameter)
        positions: I64 = self._index.search(queries, count, params=parameters)[1]
        return positions

    def search_parameters(self, depth: int) -> Iterable[int]:
        """efSearch from `depth` on: it is the size of the candidate list, of which few pass a selective filter."""
        least = max(_MIN_EF_SEARCH, depth)
        return (least << power for power in range(8) if least << power <= 2 * self.documents)

    def cost(self, search_parameter: int) -> float:
        return cost_model.search_cost(self._recipe, self.documents, self.dim, search_parameter)

    def with_vectors(self, vectors: StoredVectors) -> HnswIndex:
        index = faiss_support.clone(self._index)
        index.reset()
        _add_vectors(index, vectors)
        return HnswIndex(index, self._recipe)

    @contextmanager
    def without(self, positions: I64, vectors: StoredVectors) -> Iterator[tuple[VectorIndex, StoredVectors]]:
        """Leads the links to these nodes back to where they come from, so that no path leads there.

        Recall for their vectors is then that of a graph built without them: .9624 and .9625 at efSearch 16, .9789 and
        .9795 at 32 (20,000 x 1024-d, 1,000 of them hidden); with the nodes in place it is .9781 and .9834. The node
        at which every search begins stays.
        """
        graph = self._index.hnsw
        links = faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
        to_hidden = np.flatnonzero(np.isin(links, positions[positions != graph.entry_point]))
        origins = np.searchsorted(faiss.vector_to_array(graph.offsets), to_hidden, side="right") - 1
        kept = links[to_hidden]
        links[to_hidden] = origins
        try:
            yield self, vectors
        finally:
            links[to_hidden] = kept

    def ram_bytes(self) -> int:
        return faiss_support.index_bytes(self._index)

    def write(self, path: Path) -> None:
        faiss_support.write_index(self._index, path)


def read_index(path: Path, recipe: HnswRecipe) -> HnswIndex:
    """Raises BadArtifact."""
    index = faiss_support.read_index(path)
    if not isinstance(index, faiss.IndexHNSW):
        raise BadArtifact(f"{path}: not an HNSW index")
    return HnswIndex(index, recipe)


def train(recipe: HnswRecipe, vectors: StoredVectors, seed: int) -> HnswIndex:
    """Build a graph on one core: with threads, which race for the order of links, equal arguments give other graphs."""
    dim, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    if recipe.quantized:
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, recipe.links, metric)
        index.train(faiss_support.sample_vectors(vectors, _SQ_TRAINING_VECTORS, np.random.default_rng(seed)))
    else:
        index = faiss.IndexHNSWFlat(dim, recipe.links, metric)
    _add_vectors(index, vectors)
    return HnswIndex(index, recipe)


def _add_vectors(index: Any, vectors: StoredVectors) -> None:
    faiss_support.use_threads(1)
    for chunk in faiss_support.float32_chunks(vectors):
        index.add(chunk)
