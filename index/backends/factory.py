"""Train or read the vector index that a recipe (a faiss-style factory string) describes. `read_index` reads files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from index.backends import hnsw, ivf, ngt, scalar_quantizer, symqg
from index.backends.faiss_support import NONE
from index.backends.recipe import HalfPrecisionRecipe, HnswRecipe, IvfRecipe, NgtRecipe, Recipe, SymqgRecipe
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.vectors import I64


def train_index(
    recipe: Recipe, vectors: StoredVectors, seed: int, threads: int, *, held_out: I64 = NONE
) -> VectorIndex:
    """An index over unit vectors (m, dim), which may be memory-mapped. faiss gives equal indexes for equal arguments.

    held_out: positions of vectors that are indexed, but not trained on: queries of a calibration. A query that k-means
    was trained on is easier by up to two percent of recall (10,000 vectors).
    Raises BadSettings when the backend is not installed.
    """
    match recipe:
        case IvfRecipe():
            return ivf.train(recipe, vectors, seed, threads, held_out=held_out)
        case HnswRecipe():
            return hnsw.train(recipe, vectors, seed, held_out=held_out)
        case SymqgRecipe():
            return symqg.train(recipe, vectors, seed, threads, held_out=held_out)
        case HalfPrecisionRecipe():
            return scalar_quantizer.build(vectors)
        case _:
            return ngt.train(vectors, threads)


def is_installed(recipe: Recipe) -> bool:
    """Whether the library of its backend is installed."""
    match recipe:
        case NgtRecipe():
            return find_spec("ngtpy") is not None
        case SymqgRecipe():
            return symqg.is_installed()
        case _:
            return True


def read_index(path: Path, recipe: Recipe, dim: int) -> VectorIndex:
    """Read an index into memory. Raises BadArtifact; BadSettings when the backend is not installed."""
    match recipe:
        case IvfRecipe():
            return ivf.read_index(path, recipe)
        case HnswRecipe():
            return hnsw.read_index(path, recipe)
        case SymqgRecipe():
            return symqg.read_index(path, recipe, dim)
        case HalfPrecisionRecipe():
            return scalar_quantizer.read_index(path)
        case _:
            return ngt.read_index(path, dim)
