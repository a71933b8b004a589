"""Inverted lists of 4-bit codes, the compressed form of a large space: the seam to faiss. Reads and writes files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from index.kinds.passing import Passing
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

faiss: Any = import_module("faiss")  # The type stubs it ships lack most of what is used here.

_POINTS_PER_LIST = 64  # For k-means: faiss warns below 39; more takes longer and finds no better.
_PQ_POINTS = 4096  # faiss samples no more for codes of 4 bits.


REVISION = 1  # To be raised when the same vectors come to be trained, or measured, in another way.


def build_tag() -> str:
    """What else than the vectors decides the answers: other builds of faiss may train other codes."""
    return f"{faiss.__version__}/{REVISION}"


def recipe_of(documents: int, dim: int) -> str:
    """What `trained` makes, as faiss's index_factory would read it."""
    return f"IVF{lists_of(documents)}(SQbf16),PQ{parts_of(dim)}x4fs"


def parts_of(dim: int) -> int:
    """Codes per vector: one for as many dimensions as divide `dim`, at most 4."""
    return dim // next(size for size in (4, 3, 2, 1) if dim % size == 0)


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
    nlist = lists_of(documents)
    # Finding the lists is most of a search: among 1,024 centroids of 1024 dimensions it takes 157 µs in float32, 73 µs
    # in bfloat16, with 99.8 % the same lists. To assign many vectors, matrix products in float32 are faster.
    centroids = faiss.IndexFlatIP(dim)
    compact = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIVFPQFastScan(centroids, dim, nlist, parts_of(dim), 4, faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(seed)
    use_threads(threads)
    means = faiss.Kmeans(dim, nlist, niter=10, seed=seed, spherical=True, max_points_per_centroid=_POINTS_PER_LIST)
    means.train(_sample(vectors, nlist * _POINTS_PER_LIST, random))
    centroids.add(means.centroids)
    compact.add(means.centroids)
    # Many parallel sections of microseconds: 2 s on one thread, but 100 s on two of which one has to wait for its core.
    use_threads(1)
    index.pq.cp.seed = seed
    index.train(_sample(vectors, _PQ_POINTS, random))
    use_threads(threads)
    for start in range(0, documents, 1 << 14):
        index.add(np.ascontiguousarray(vectors[start : start + (1 << 14)]))
    index.quantizer = compact
    # A copy owns all its parts; here they belong to variables of this function.
    return Codes(faiss.deserialize_index(faiss.serialize_index(index)))


def _sample(vectors: F32, size: int, random: np.random.Generator) -> F32:
    if size >= len(vectors):
        return np.ascontiguousarray(vectors)
    return vectors[np.sort(random.choice(len(vectors), size, replace=False))]
