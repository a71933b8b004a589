"""HNSW by faiss: a navigable small-world graph over full vectors or bytes, possibly rotated. Reads and writes files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from index.backends import cost_model, faiss_support, rotation
from index.backends.faiss_support import faiss
from index.backends.graph_search import graph_search_parameters
from index.backends.recipe import HnswRecipe
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_SQ_TRAINING_VECTORS = 1 << 14


class HnswIndex:
    """A `VectorIndex` whose search parameter is efSearch."""

    refine_factors: tuple[int, ...] = (1, 2, 4)

    def __init__(self, index: Any, recipe: HnswRecipe, hidden: I64 = faiss_support.NONE) -> None:
        """index: a faiss HNSW index, or an IndexPreTransform around one, that owns all its parts.

        hidden: positions of vectors that are visited, but not found.
        """
        self._index = index
        self._recipe = recipe
        self.graph = rotation.rotated_index(index)
        self.rotation = rotation.rotation_of(index)
        self._selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden)) if len(hidden) else None
        self._parameters_by_ef: dict[int, Any] = {}
        self.documents = int(index.ntotal)
        self.dim = int(index.d)

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        rotated = rotation.rotate_queries(queries, self.rotation)
        positions: I64 = self.graph.search(rotated, count, params=self._parameters(search_parameter))[1]
        return positions

    def _parameters(self, ef: int) -> Any:
        """faiss's search parameters, cached: making them takes 6 µs."""
        if (parameters := self._parameters_by_ef.get(ef)) is None:
            parameters = faiss.SearchParametersHNSW(efSearch=ef, sel=self._selector)
            self._parameters_by_ef[ef] = parameters
        return parameters

    def search_parameters(self, depth: int) -> Iterable[int]:
        return graph_search_parameters(depth, self.documents)

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
        .9795 at 32 (20,000 x 1024-d, 1,000 of them hidden); with the nodes in place it is .9781 and .9834. On harder
        vectors it is lower, since links that led to a query's node lead nowhere: .930 in place of .956 (8,000 uniform
        ones of 24 dimensions, efSearch 20), so that a graph delivers more than it states. The node at which every
        search begins stays in its place, but is not found.
        """
        graph = rotation.rotated_index(self._index).hnsw
        links = faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
        is_entry = positions == graph.entry_point
        to_hidden = np.flatnonzero(np.isin(links, positions[~is_entry]))
        origins = np.searchsorted(faiss.vector_to_array(graph.offsets), to_hidden, side="right") - 1
        kept = links[to_hidden]
        links[to_hidden] = origins
        try:
            yield HnswIndex(self._index, self._recipe, hidden=positions[is_entry]), vectors
        finally:
            links[to_hidden] = kept

    def ram_bytes(self) -> int:
        return faiss_support.index_bytes(self._index)

    def write(self, path: Path) -> None:
        faiss_support.write_index(self._index, path)


def read_index(path: Path, recipe: HnswRecipe) -> HnswIndex:
    """Raises BadArtifact."""
    index = faiss_support.read_index(path)
    if not isinstance(rotation.rotated_index(index), faiss.IndexHNSW):
        raise BadArtifact(f"{path}: not an HNSW index")
    rotated_dim = 0 if (matrix := rotation.rotation_of(index)) is None else len(matrix)
    if rotated_dim != recipe.rotated_dim:
        raise BadArtifact(f"{path}: vectors are rotated to {rotated_dim} dimensions, expected {recipe.rotated_dim}")
    return HnswIndex(index, recipe)


def train(recipe: HnswRecipe, vectors: StoredVectors, seed: int, *, held_out: I64 = faiss_support.NONE) -> HnswIndex:
    """Build a graph on one core: with threads, which race for the order of links, equal arguments give other graphs.

    held_out: positions of vectors that are in the graph, but not trained on.
    """
    metric, random = faiss.METRIC_INNER_PRODUCT, np.random.default_rng(seed)
    faiss_support.use_threads(1)
    matrix = None
    if recipe.rotated_dim:
        matrix = rotation.train_pca(rotation.sample_for_training(vectors, random, held_out), recipe.rotated_dim, seed)
    dim = recipe.rotated_dim or vectors.shape[1]
    if recipe.quantized:
        graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, recipe.links, metric)
        sample = faiss_support.sample_vectors(vectors, _SQ_TRAINING_VECTORS, random, held_out)
        graph.train(rotation.rotate_to_unit(sample, matrix))
    else:
        graph = faiss.IndexHNSWFlat(dim, recipe.links, metric)
    # A copy owns all its parts: those of the original belong to variables of this function.
    index = graph if matrix is None else faiss_support.clone(rotation.with_rotation(matrix, graph))
    _add_vectors(index, vectors)
    return HnswIndex(index, recipe)


def _add_vectors(index: Any, vectors: StoredVectors) -> None:
    faiss_support.use_threads(1)
    graph, matrix = rotation.rotated_index(index), rotation.rotation_of(index)
    for chunk in faiss_support.float32_chunks(vectors):
        graph.add(rotation.rotate_to_unit(chunk, matrix))
    index.ntotal = graph.ntotal
