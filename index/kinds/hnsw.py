"""A navigable small-world graph over full vectors or bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from index.kinds import engine, formulas
from index.kinds.engine import faiss
from index.kinds.recipe import Graph
from index.storage.vectors import Stored
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_SQ_POINTS = 1 << 14
_LEAST_EFFORT = 16


class SmallWorld:
    """`Codes`; the search_parameter is how many nodes are kept in mind (efSearch)."""

    factors: tuple[int, ...] = (1, 2, 4)

    def __init__(self, index: Any, recipe: Graph) -> None:
        self._index = index
        self._recipe = recipe
        self.documents = int(index.ntotal)
        self.dim = int(index.d)

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        parameters = faiss.SearchParametersHNSW(efSearch=search_parameter)
        found: I64 = self._index.search(queries, count, params=parameters)[1]
        return found

    def efforts(self, depth: int) -> Iterable[int]:
        """At least as many nodes as are wanted: under a filter few of those kept pass."""
        least = max(_LEAST_EFFORT, depth)
        return (least << power for power in range(8) if least << power <= 2 * self.documents)

    def cost(self, search_parameter: int) -> float:
        return formulas.cost(self._recipe, self.documents, self.dim, search_parameter)

    def refilled(self, vectors: Stored) -> SmallWorld:
        index = engine.copied(self._index)
        index.reset()
        _fill(index, vectors)
        return SmallWorld(index, self._recipe)

    def ram_bytes(self) -> int:
        return engine.size_bytes(self._index)

    def write(self, path: Path) -> None:
        engine.write(self._index, path)


def read(path: Path, recipe: Graph) -> SmallWorld:
    """Raises BadArtifact."""
    index = engine.read(path)
    if not isinstance(index, faiss.IndexHNSW):
        raise BadArtifact(f"{path}: not a graph")
    return SmallWorld(index, recipe)


def trained(recipe: Graph, vectors: Stored, seed: int) -> SmallWorld:
    """The same arguments give the same graph: on one core, as several race for who is linked first."""
    dim, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    if recipe.bytes:
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, recipe.links, metric)
        index.train(engine.sample(vectors, _SQ_POINTS, np.random.default_rng(seed)))
    else:
        index = faiss.IndexHNSWFlat(dim, recipe.links, metric)
    _fill(index, vectors)
    return SmallWorld(index, recipe)


def _fill(index: Any, vectors: Stored) -> None:
    engine.use_threads(1)
    for part in engine.chunks(vectors):
        index.add(part)
