"""Which kind makes, and reads, the codes of a recipe."""

from __future__ import annotations

from pathlib import Path

from index.kinds import hnsw, ivf, ngt, whole
from index.kinds.recipe import Graph, Halves, Lists, Recipe
from index.kinds.seam import Codes
from index.storage.vectors import Stored


def trained(recipe: Recipe, vectors: Stored, seed: int, threads: int) -> Codes:
    """Codes of unit vectors (m, dim), which may be a memory mapping. Of faiss's kinds the same arguments give the same.

    Raises BadSettings when the kind is not installed.
    """
    match recipe:
        case Lists():
            return ivf.trained(recipe, vectors, seed, threads)
        case Graph():
            return hnsw.trained(recipe, vectors, seed)
        case Halves():
            return whole.made(vectors)
        case _:
            return ngt.trained(vectors, threads)


def read(path: Path, recipe: Recipe, dim: int) -> Codes:
    """Into memory. Raises BadArtifact; BadSettings when the kind is not installed."""
    match recipe:
        case Lists():
            return ivf.read(path, recipe)
        case Graph():
            return hnsw.read(path, recipe)
        case Halves():
            return whole.read(path)
        case _:
            return ngt.read(path, dim)
