"""Inverted lists of full vectors, bytes, product-quantised codes or bits, possibly rotated to fewer dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from index.kinds import engine, formulas
from index.kinds.engine import faiss
from index.kinds.recipe import Lists
from index.storage.vectors import Stored
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_POINTS_PER_LIST = 64  # For k-means: faiss warns below 39; more takes longer and finds no better.
_POINTS_PER_CODE = 256  # faiss samples no more.
_ROTATION_POINTS = 1 << 13
_ROTATION_ROUNDS = 20

# How many candidates for each result are worth trying: the coarser the code, the more.
_FINE, _COARSE = (1, 2, 4, 8), (4, 8, 16, 32, 64)


class InvertedLists:
    """`Codes`; the search_parameter is how many lists are visited."""

    def __init__(self, index: Any, recipe: Lists) -> None:
        """index: an IVF of faiss, or one behind a linear map, that owns all its parts."""
        self._index = index
        self.recipe = recipe
        self.lists = faiss.extract_index_ivf(index)
        self._rotation = _rotation_of(index)
        self._kept: dict[int, Any] = {}
        self.documents = int(index.ntotal)
        self.dim = int(index.d)
        self.factors: tuple[int, ...] = _FINE if recipe.payload in ("Flat", "SQ8", "SQ4") else _COARSE

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        found: I64 = self.lists.search(self.turned(queries), count, params=self._parameters(search_parameter))[1]
        return found

    def turned(self, queries: F32) -> F32:
        """As the lists hold vectors: rotated, where they are."""
        return queries if self._rotation is None else _rotated_alone(queries, self._rotation)

    def _parameters(self, search_parameter: int) -> Any:
        """Kept where they are the same for many: to make them takes 6 µs."""
        if (kept := self._kept.get(search_parameter)) is None:
            kept = self._kept[search_parameter] = faiss.SearchParametersIVF(nprobe=search_parameter)
        return kept

    def efforts(self, depth: int) -> Iterable[int]:
        return (1 << power for power in range(self.recipe.lists.bit_length()))

    def cost(self, search_parameter: int) -> float:
        return formulas.cost(self.recipe, self.documents, self.dim, search_parameter)

    def refilled(self, vectors: Stored) -> InvertedLists:
        index = engine.copied(self._index)
        index.reset()
        _fill(index, vectors, lambda centroids: centroids)
        return InvertedLists(index, self.recipe)

    def ram_bytes(self) -> int:
        return engine.size_bytes(self._index)

    def write(self, path: Path) -> None:
        engine.write(self._index, path)


def read(path: Path, recipe: Lists) -> InvertedLists:
    """Raises BadArtifact."""
    index = engine.read(path)
    try:
        lists = int(faiss.extract_index_ivf(index).nlist)
    except (RuntimeError, AttributeError) as error:  # An index of another kind has no lists.
        raise BadArtifact(f"{path}: {error}") from error
    if lists != recipe.lists:
        raise BadArtifact(f"{path}: has {lists} lists, not {recipe.lists}")
    return InvertedLists(index, recipe)


def trained(
    recipe: Lists, vectors: Stored, seed: int, threads: int, there: Callable[[Any], Any] = lambda index: index
) -> InvertedLists:
    """Of unit vectors (m, dim), which may be a memory mapping. The same arguments give the same codes.

    there: copies an index to where vectors are compared with centroids, which is most of the work.
    """
    dim, nlist = vectors.shape[1], recipe.lists
    random = np.random.default_rng(seed)
    engine.use_threads(1)  # Several would sum in another order.
    rotation = _learnt_rotation(recipe, engine.sample(vectors, _ROTATION_POINTS, random), seed) if recipe.dim else None
    engine.use_threads(threads)
    rotated = _together(rotation)
    held = recipe.dim or dim
    # Finding the lists is most of a search: among 1,024 centroids of 1024 dimensions it takes 157 µs in float32, 73 µs
    # in bfloat16, with 99.8 % the same lists.
    means = faiss.Clustering(held, nlist)
    means.niter, means.seed, means.spherical, means.max_points_per_centroid = 10, seed, True, _POINTS_PER_LIST
    means.train(rotated(engine.sample(vectors, nlist * _POINTS_PER_LIST, random)), there(faiss.IndexFlatIP(held)))
    compact = faiss.IndexScalarQuantizer(held, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    compact.add(faiss.vector_to_array(means.centroids).reshape(nlist, held))
    index = _empty(recipe, compact, held)
    # Many parallel sections of microseconds: 2 s on one thread, but 100 s on two of which one has to wait for its core.
    engine.use_threads(1)
    if recipe.bits:
        index.pq.cp.seed = seed
    index.train(rotated(engine.sample(vectors, _POINTS_PER_CODE << (recipe.bits or 4), random)))
    engine.use_threads(threads)
    whole = index if rotation is None else _behind(rotation, index)
    owner = engine.copied(whole)  # Its parts belong to variables of this function.
    _fill(owner, vectors, there)
    return InvertedLists(owner, recipe)


def _empty(recipe: Lists, centroids: Any, dim: int) -> Any:
    of, metric, quantizer = (centroids, dim, recipe.lists), faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
    makers: dict[str, Callable[[], Any]] = {
        "Flat": lambda: faiss.IndexIVFFlat(*of, metric),
        "SQ8": lambda: faiss.IndexIVFScalarQuantizer(*of, quantizer.QT_8bit, metric),
        "SQ4": lambda: faiss.IndexIVFScalarQuantizer(*of, quantizer.QT_4bit, metric),
        "PQ": lambda: faiss.IndexIVFPQFastScan(*of, recipe.parts, 4, metric),
        "PQ8": lambda: faiss.IndexIVFPQ(*of, recipe.parts, 8, metric),
        "RaBitQ": lambda: faiss.IndexIVFRaBitQ(*of, metric),
        "RaBitQfs": lambda: faiss.IndexIVFRaBitQFastScan(*of, metric),
    }
    return makers[recipe.payload]()


def _fill(index: Any, vectors: Stored, there: Callable[[Any], Any]) -> None:
    """To assign many vectors to lists, matrix products in float32 are faster than the compact centroids."""
    lists = faiss.extract_index_ivf(index)
    rotated = _together(_rotation_of(index))
    compact, centroids = lists.quantizer, faiss.IndexFlatIP(lists.d)
    centroids.add(compact.reconstruct_n(0, lists.nlist))
    centroids = there(centroids)
    lists.quantizer = centroids
    try:
        for part in engine.chunks(vectors):
            lists.add(rotated(part))
    finally:
        lists.quantizer = compact
    index.ntotal = lists.ntotal


def _learnt_rotation(recipe: Lists, points: F32, seed: int) -> F32:
    """(recipe.dim, dim): to where the points extend most, then turned so that each code, or bit, says as much.

    Not centred: inner products are to be kept, and not distances.
    """
    moments = (points.T @ points).astype(np.float64)
    directions = np.ascontiguousarray(np.linalg.eigh(moments)[1][:, : -recipe.dim - 1 : -1].T.astype(np.float32))
    if recipe.bits:
        turn = faiss.OPQMatrix(recipe.dim, recipe.parts, recipe.dim)
        turn.niter = _ROTATION_ROUNDS
        quantizer = faiss.ProductQuantizer(recipe.dim, recipe.parts, recipe.bits)
        quantizer.cp.seed = seed
        turn.pq = quantizer
        turn.train(points @ directions.T)
    else:
        turn = faiss.RandomRotationMatrix(recipe.dim, recipe.dim)
        turn.init(seed)
    turned: F32 = faiss.vector_to_array(turn.A).reshape(recipe.dim, recipe.dim) @ directions
    return turned


def _behind(rotation: F32, lists: Any) -> Any:
    linear = faiss.LinearTransform(rotation.shape[1], rotation.shape[0], False)
    faiss.copy_array_to_vector(rotation.ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, lists)


def _rotation_of(index: Any) -> F32 | None:
    """The matrix where it lies in the index; None: there is none."""
    if not isinstance(index, faiss.IndexPreTransform):
        return None
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    matrix: F32 = faiss.rev_swig_ptr(linear.A.data(), linear.A.size()).reshape(linear.d_out, linear.d_in)
    return matrix


def _together(rotation: F32 | None) -> Callable[[F32], F32]:
    """Many vectors at a time, by matrix product."""
    return (lambda vectors: vectors) if rotation is None else (lambda vectors: vectors @ rotation.T)


def _rotated_alone(queries: F32, rotation: F32) -> F32:
    """Each query by itself: the roundings of a matrix product depend on how many there are."""
    queries = engine.wide(queries)
    rotated = np.empty((len(queries), len(rotation)), dtype=np.float32)
    for query, out in zip(queries, rotated, strict=True):
        faiss.fvec_inner_products_ny(
            faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(rotation), rotation.shape[1], len(rotation)
        )
    return rotated
