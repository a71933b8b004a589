"""Inverted lists of 4-bit codes, the compressed form of a large space: the seam to faiss. Reads and writes files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from index.filters import Passing
from index.scores import I64
from lookalike.errors import BadArtifact
from lookalike.vectors import F32

faiss: Any = import_module("faiss")  # The type stubs it ships lack most of what is used here.

_POINTS_PER_LIST = 64  # For k-means: faiss warns below 39; more takes longer and finds no better.
_PQ_POINTS = 4096  # faiss samples no more for codes of 4 bits.


def build_tag() -> str:
    """What else decides the codes: other builds of faiss may train others from the same vectors."""
    return str(faiss.__version__)


def recipe_of(documents: int, dim: int) -> str:
    """As index_factory reads it: one code for the most dimensions up to 4 that divide `dim`."""
    per_code = next(size for size in (4, 3, 2, 1) if dim % size == 0)
    return f"IVF{lists_of(documents)},PQ{dim // per_code}x4fs"


def lists_of(documents: int) -> int:
    """How many inverted lists: the power of two at or below 4·√n, each with at least 39 vectors to learn from."""
    at_most = max(1, min(4 * documents**0.5, documents / 39))
    return 1 << int(np.log2(at_most))


class Codes:
    """Finds candidates by approximate scores. May be used by many threads at a time."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.documents = int(index.ntotal)
        self.dim = int(index.d)
        self.nlist = int(index.nlist)

    def candidates(self, queries: F32, count: int, nprobe: int, passing: Passing | None) -> I64:
        """(n, count) positions of likely neighbours in no certain order, −1 where the lists visited held fewer.

        The filter is applied inside: codes of vectors that do not pass take no candidate's place.
        """
        selector = None if passing is None else faiss.IDSelectorBitmap(passing.total, faiss.swig_ptr(passing.bits))
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
        found: I64 = self._index.search(queries, count, params=parameters)[1]
        return found

    def write(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))


def read(path: Path) -> Codes:
    """Into memory. Raises BadArtifact."""
    try:
        return Codes(faiss.read_index(str(path)))
    except (RuntimeError, AttributeError) as error:  # faiss has no other; an index of another kind has no lists.
        raise BadArtifact(f"{path}: {error}") from error


def use_threads(threads: int) -> None:
    """How many threads faiss may use for a call from the calling thread."""
    faiss.omp_set_num_threads(threads)


def trained(vectors: F32, seed: int, threads: int) -> Codes:
    """Codes of unit vectors (m, dim), which may be a memory mapping. The same arguments give the same codes."""
    documents, dim = vectors.shape
    index = faiss.index_factory(dim, recipe_of(documents, dim), faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(seed)
    use_threads(threads)
    means = faiss.Kmeans(
        dim, index.nlist, niter=10, seed=seed, spherical=True, max_points_per_centroid=_POINTS_PER_LIST
    )
    means.train(_sample(vectors, index.nlist * _POINTS_PER_LIST, random))
    index.quantizer.add(means.centroids)
    # Many parallel sections of microseconds: 2 s on one thread, but 100 s on two of which one has to wait for its core.
    use_threads(1)
    index.pq.cp.seed = seed
    index.train(_sample(vectors, _PQ_POINTS, random))
    use_threads(threads)
    for start in range(0, documents, 1 << 14):
        index.add(np.ascontiguousarray(vectors[start : start + (1 << 14)]))
    return Codes(index)


def _sample(vectors: F32, size: int, random: np.random.Generator) -> F32:
    if size >= len(vectors):
        return np.ascontiguousarray(vectors)
    return vectors[np.sort(random.choice(len(vectors), size, replace=False))]
