"""SymphonyQG by rabitqlib, an optional dependency: a graph that holds codes of a node's neighbours beside it.

A step of the search compares the query with all neighbours of a node at once, from one place in memory. Vectors are
possibly rotated to fewer dimensions. Reads and writes files.

Y. Gou et al.: SymphonyQG: Towards Symphonious Integration of Quantization and Graph for Approximate Nearest Neighbor
Search, SIGMOD 2025.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from index.backends import cost_model, faiss_support, rotation
from index.backends.duplicates import I32, DuplicateGroups, group_equal_vectors
from index.backends.graph_search import graph_search_parameters
from index.backends.recipe import SymqgRecipe
from index.backends.vector_index import VectorIndex, rebuilt_without
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact, BadSettings
from lookalike.vectors import F32, I64

_PACKAGE = "rabitqlib"
_METRIC = "l2"
_CODE_BITS = 8  # Of a node's own vector. With 4 bits, recall@10 stays below 0.92 (100,000 vectors of 1024 dimensions).
_EF_CONSTRUCTION = 200
_CHUNK_VECTORS = 1 << 14
_REFINE_FACTORS, _ROTATED_REFINE_FACTORS = (1, 2, 4), (1, 2, 3, 4, 6, 8)
_GRAPH, _ROTATION, _GROUPS = "graph", "rotation.npy", "groups.npy"


class SymqgIndex:
    """A `VectorIndex` whose search parameter is ef, the size of the candidate list: it returns no more than that."""

    def __init__(
        self, graph: Any, recipe: SymqgRecipe, dim: int, *, matrix: F32 | None, duplicates: DuplicateGroups | None
    ) -> None:
        """matrix:     (rotated_dim, dim); None: vectors are not rotated.
        duplicates: the vectors of each node; None: a node for each vector.
        """
        self.graph = graph
        self._recipe = recipe
        self.rotation = matrix
        self._duplicates = duplicates
        self._nodes = int(graph.num_points)
        self.documents = self._nodes if duplicates is None else len(duplicates.group_of)
        self.dim = dim
        self.refine_factors: tuple[int, ...] = _REFINE_FACTORS if matrix is None else _ROTATED_REFINE_FACTORS

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        rotated = rotation.rotate_queries(queries, self.rotation)
        size = min(count, search_parameter, self._nodes)
        try:
            nodes = self._search(rotated, size, search_parameter)
        except RuntimeError:
            nodes = np.concatenate([self._find_fewer(query[None, :], size, search_parameter) for query in rotated])
        if self._duplicates is not None:
            return self._duplicates.expand(nodes, count)
        return nodes if size == count else np.pad(nodes, ((0, 0), (0, count - size)), constant_values=-1)

    def _search(self, rotated: F32, size: int, ef: int) -> I64:
        nodes: I64 = self.graph.search(rotated, size, ef)[0].astype(np.int64)
        return nodes

    def _find_fewer(self, query: F32, size: int, ef: int) -> I64:
        """(1, size) nodes, −1 at the end: the library refuses a search that reaches fewer nodes than asked for.

        That happens among nearly equal vectors, whose nodes lead to each other only.
        """
        nodes, fewer = np.full((1, size), -1, dtype=np.int64), size
        while fewer := fewer // 2:
            try:
                nodes[:, :fewer] = self._search(query, fewer, ef)
            except RuntimeError:
                continue
            break
        return nodes

    def search_parameters(self, depth: int) -> Iterable[int]:
        return graph_search_parameters(depth, self.documents)

    def cost(self, search_parameter: int) -> float:
        return cost_model.search_cost(self._recipe, self.documents, self.dim, search_parameter)

    def with_vectors(self, vectors: StoredVectors) -> SymqgIndex:
        return _build(self._recipe, vectors, self.rotation, 1)

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        return rebuilt_without(self, positions, vectors)

    def ram_bytes(self) -> int:
        """By formula, which tests compare with the file: the library keeps a graph in memory as it writes it."""
        groups = 0 if self._duplicates is None else self._duplicates.ram_bytes()
        return round(cost_model.ram_bytes(self._recipe, self._nodes, self.dim)) + groups

    def write(self, path: Path) -> None:
        path.mkdir()
        self.graph.save(str(path / _GRAPH))
        if self.rotation is not None:
            np.save(path / _ROTATION, self.rotation)
        if self._duplicates is not None:
            np.save(path / _GROUPS, self._duplicates.group_of)


def is_installed() -> bool:
    return find_spec(_PACKAGE) is not None


def read_index(path: Path, recipe: SymqgRecipe, dim: int) -> SymqgIndex:
    """Raises BadArtifact; BadSettings when the library is not installed."""
    library = _import_library()
    stored_dim = recipe.rotated_dim or dim
    try:
        graph = library.SymqgIndex.load(str(path / _GRAPH))
        matrix = np.load(path / _ROTATION, allow_pickle=False) if recipe.rotated_dim else None
        group_of = np.load(path / _GROUPS, allow_pickle=False) if (path / _GROUPS).exists() else None
    except (RuntimeError, ValueError, MemoryError, OSError, EOFError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    found = (graph.dim, graph.max_degree, graph.quantization_bits, graph.metric)
    if found != (expected := (stored_dim, recipe.degree, _CODE_BITS, _METRIC)):
        raise BadArtifact(f"{path}: a graph of (dimensions, links, bits, metric) {found}, expected {expected}")
    if matrix is not None and (matrix.shape, matrix.dtype) != ((stored_dim, dim), np.float32):
        raise BadArtifact(f"{path}: a rotation of {matrix.dtype} {matrix.shape}, expected float32 {(stored_dim, dim)}")
    if group_of is not None and (
        group_of.ndim != 1 or group_of.dtype != np.int32 or len(np.unique(group_of)) != graph.num_points
    ):
        raise BadArtifact(f"{path}: the groups of equal vectors are not those of {graph.num_points} nodes")
    duplicates = None if group_of is None else DuplicateGroups(group_of)
    return SymqgIndex(graph, recipe, dim, matrix=matrix, duplicates=duplicates)


def train(
    recipe: SymqgRecipe, vectors: StoredVectors, seed: int, threads: int, *, held_out: I64 = faiss_support.NONE
) -> SymqgIndex:
    """An index over unit vectors (m, dim), which may be memory-mapped.

    held_out: positions of vectors that are in the graph, but not trained on.
    The library draws its rotation and first links at random and takes no seed: no two builds are the same.
    Raises BadSettings when it is not installed.
    """
    matrix = None
    if recipe.rotated_dim:
        faiss_support.use_threads(1)  # More would sum in another order.
        sample = rotation.sample_for_training(vectors, np.random.default_rng(seed), held_out)
        matrix = rotation.train_pca(sample, recipe.rotated_dim, seed)
        rotation.round_rotation(matrix)
    return _build(recipe, vectors, matrix, threads)


def _build(recipe: SymqgRecipe, vectors: StoredVectors, matrix: F32 | None, threads: int) -> SymqgIndex:
    """A graph of the distinct vectors, rotated if the recipe says so."""
    dim = vectors.shape[1]
    graph = _import_library().SymqgIndex(recipe.rotated_dim or dim, recipe.degree, _METRIC, _CODE_BITS)
    group_of = group_equal_vectors(vectors)
    duplicates, positions = None, np.arange(len(vectors), dtype=np.int32)
    if recipe.degree <= group_of.max() < len(vectors) - 1:  # The library needs more nodes than links.
        duplicates = DuplicateGroups(group_of)
        positions = duplicates.first_positions
    graph.build(_stored_vectors(vectors, positions, matrix), _EF_CONSTRUCTION, threads)
    return SymqgIndex(graph, recipe, dim, matrix=matrix, duplicates=duplicates)


def _stored_vectors(vectors: StoredVectors, positions: I32, matrix: F32 | None) -> F32:
    """Those vectors as the graph stores them, in one array, as the library takes them."""
    if matrix is None and len(positions) == len(vectors):
        return faiss_support.as_float32(vectors)
    stored = np.empty((len(positions), vectors.shape[1] if matrix is None else len(matrix)), dtype=np.float32)
    for start in range(0, len(positions), _CHUNK_VECTORS):
        part = faiss_support.as_float32(vectors[positions[start : start + _CHUNK_VECTORS]])
        stored[start : start + len(part)] = rotation.rotate_to_unit(part, matrix)
    return stored


def _import_library() -> Any:
    try:
        return import_module(_PACKAGE)
    except ImportError as error:
        raise BadSettings(
            f"the recipe SymQG needs the package {_PACKAGE}: pip install {_PACKAGE}, or build the index again with "
            f"another recipe ({error})"
        ) from error
