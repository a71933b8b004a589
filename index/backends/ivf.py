"""IVF by faiss: inverted lists of vectors, bytes, PQ codes or bits, possibly rotated. Reads and writes index files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from index.backends import compact_lists, cost_model, faiss_support, rotation
from index.backends.compact_lists import CompactLists
from index.backends.faiss_support import faiss
from index.backends.fast_scan_lists import FastScanLists
from index.backends.filter_bitmap import Mask
from index.backends.recipe import IvfRecipe
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_TRAINING_VECTORS_PER_LIST = 64  # For k-means: faiss warns below 39; more takes longer and finds no better.
_MIN_TRAINING_VECTORS_PER_LIST = 32  # faiss warns below: 39 by a recipe's limit, without the held-out eighth.
_TRAINING_VECTORS_PER_CENTROID = 256  # Of a PQ code; faiss samples no more.
_ROTATION_ITERATIONS = 20

_SPARE = 16  # More candidates than asked for, and a quarter: an eighth of the vectors are hidden from a calibration.

# The coarser the code, the more candidates per result are worth trying.
_FINE_REFINE_FACTORS, _COARSE_REFINE_FACTORS = (1, 2, 4, 8), (4, 8, 16, 32, 64)


class InvertedLists(Protocol):
    """The lists of a faiss IVF index. Immutable; many threads may search them at once."""

    index: Any  # The faiss IVF index, or an IndexPreTransform around it.

    def search(self, queries: F32, count: int, nprobe: int) -> I64:
        """(n, count) positions of the best of each query (n, dim) in the `nprobe` nearest lists, −1: no more."""

    def empty_copy(self) -> Any:
        """A copy of the index whose lists are faiss's own, and empty."""

    def copy_with_ids(self) -> Any:
        """A copy of the index whose lists are faiss's own, and hold positions as ids."""

    def ram_bytes(self) -> int:
        """Memory of lists and index."""

    def write(self, path: Path) -> None:
        """Write lists and index to a file, or to a directory of files."""


class IvfIndex:
    """A `VectorIndex` whose search parameter is nprobe: how many lists are visited."""

    def __init__(self, lists: InvertedLists, recipe: IvfRecipe, hidden: I64 = faiss_support.NONE) -> None:
        """hidden: positions of vectors that are not found."""
        self.lists = lists
        self.recipe = recipe
        self._rotation = rotation.rotation_of(lists.index)
        self.documents = int(lists.index.ntotal)
        self.dim = int(lists.index.d)
        self._hidden: Mask | None = None
        if len(hidden):
            self._hidden = np.isin(np.arange(self.documents), hidden)
        fine = recipe.payload in ("Flat", "SQ8", "SQ4")
        self.refine_factors: tuple[int, ...] = _FINE_REFINE_FACTORS if fine else _COARSE_REFINE_FACTORS

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        rotated = self.rotate(queries)
        if self._hidden is None:
            return self.lists.search(rotated, count, search_parameter)
        searched = count + count // 4 + _SPARE
        while True:
            positions = self.lists.search(rotated, searched, search_parameter)
            visible = (positions >= 0) & ~self._hidden[positions]
            if ((visible.sum(axis=1) >= count) | (positions[:, -1] < 0)).all():
                break
            searched *= 2
        positions[~visible] = -1
        return np.take_along_axis(positions, np.argsort(~visible, axis=1, kind="stable")[:, :count], axis=1)

    def rotate(self, queries: F32) -> F32:
        """The queries as the lists store vectors: rotated, if the recipe says so."""
        return rotation.rotate_queries(queries, self._rotation)

    def search_parameters(self, depth: int) -> Iterable[int]:
        return (1 << power for power in range(self.recipe.nlist.bit_length()))

    def cost(self, search_parameter: int) -> float:
        return cost_model.search_cost(self.recipe, self.documents, self.dim, search_parameter)

    def with_vectors(self, vectors: StoredVectors) -> IvfIndex:
        index = self.lists.empty_copy()
        _add_vectors(index, vectors, lambda centroids: centroids)
        return IvfIndex(_lists_of(index, self.recipe), self.recipe)

    def with_moved(self, vectors: StoredVectors, new_positions: I64) -> IvfIndex:
        """An index over these vectors, with the codes of those of them that this one has, if they can be copied.

        new_positions: of each vector of this index, −1: it is not among them.
        To copy the codes of 8,000 vectors of 1024 dimensions takes 30 ms, to make them anew 680.
        """
        if not self._has_plain_codes:
            return self.with_vectors(vectors)
        index = self.lists.copy_with_ids()
        lists = faiss.extract_index_ivf(index)
        inverted = faiss.downcast_InvertedLists(lists.invlists)
        sizes = [inverted.list_size(number) for number in range(lists.nlist)]
        if len(gone := np.flatnonzero(new_positions < 0)):
            lists.remove_ids(gone)
        for number, before in enumerate(sizes):
            if inverted.list_size(number):
                ids = _ids(inverted, number)
                ids[:] = new_positions[ids]
                _clear_unused(inverted, number, before)
        new = np.setdiff1d(np.arange(len(vectors)), new_positions)
        _add_vectors(index, vectors, lambda centroids: centroids, new)
        return IvfIndex(_lists_of(index, self.recipe), self.recipe)

    def extended_with(self, vectors: StoredVectors) -> IvfIndex:
        """A new index over these vectors, too, after those that it has; takes as much memory again."""
        index = self.lists.copy_with_ids()
        _add_vectors(index, vectors, lambda centroids: centroids)
        return IvfIndex(_lists_of(index, self.recipe), self.recipe)

    def merged_with(self, other: IvfIndex, vectors: StoredVectors) -> IvfIndex:
        """As `extended_with`, of the vectors of another index with the same training: its codes are copied if possible.

        To copy the codes of 8,000 vectors of 1024 dimensions takes 45 ms, to make them anew 680.
        """
        if not self._has_plain_codes or other.recipe != self.recipe:
            return self.extended_with(vectors)
        index, codes = self.lists.copy_with_ids(), other.lists.copy_with_ids()
        lists, others = faiss.extract_index_ivf(index), faiss.extract_index_ivf(codes)
        _merge_after_whole_blocks(lists.invlists, others.invlists, self.documents)
        lists.merge_from(others, self.documents)
        index.ntotal = lists.ntotal
        return IvfIndex(_lists_of(index, self.recipe), self.recipe)

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        return nullcontext((IvfIndex(self.lists, self.recipe, hidden=positions), vectors))

    def ram_bytes(self) -> int:
        return self.lists.ram_bytes()

    def write(self, path: Path) -> None:
        self.lists.write(path)

    @property
    def _has_plain_codes(self) -> bool:
        """Whether faiss can copy single codes; it cannot where each comes with factors of its vector."""
        return self.recipe.payload == "PQ"


def read_index(path: Path, recipe: IvfRecipe) -> IvfIndex:
    """Raises BadArtifact."""
    lists = FastScanLists(faiss_support.read_index(path)) if recipe.fast_scan else compact_lists.read_lists(path)
    try:
        nlist = int(faiss.extract_index_ivf(lists.index).nlist)
    except (RuntimeError, AttributeError) as error:  # An index of another type has no lists.
        raise BadArtifact(f"{path}: {error}") from error
    if nlist != recipe.nlist:
        raise BadArtifact(f"{path}: has {nlist} lists, expected {recipe.nlist}")
    return IvfIndex(lists, recipe)


def _lists_of(index: Any, recipe: IvfRecipe) -> InvertedLists:
    """Those of an index that faiss has filled. It is taken over."""
    return FastScanLists(index) if recipe.fast_scan else CompactLists.of(index)


def train(
    recipe: IvfRecipe,
    vectors: StoredVectors,
    seed: int,
    threads: int,
    to_device: Callable[[Any], Any] = lambda index: index,
    *,
    held_out: I64 = faiss_support.NONE,
) -> IvfIndex:
    """An index over unit vectors (m, dim), which may be memory-mapped. The same arguments give the same index.

    held_out:  positions of vectors that are indexed, but not trained on.
    to_device: copies the index that compares vectors with centroids (most of the work) to a device.
    """
    dim, nlist = vectors.shape[1], recipe.nlist
    random = np.random.default_rng(seed)
    faiss_support.use_threads(1)  # More would sum in another order.
    matrix = None
    if recipe.rotated_dim:
        matrix = _train_rotation(recipe, rotation.sample_for_training(vectors, random, held_out), seed)
    faiss_support.use_threads(threads)
    stored_dim = recipe.rotated_dim or dim
    # Finding the lists is most of a search: among 1,024 centroids of 1024 dimensions it takes 157 µs in float32, 73 µs
    # in bfloat16, with 99.8 % the same lists.
    kmeans = faiss.Clustering(stored_dim, nlist)
    kmeans.niter, kmeans.seed, kmeans.spherical = 10, seed, True
    kmeans.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
    kmeans.min_points_per_centroid = _MIN_TRAINING_VECTORS_PER_LIST
    sample = faiss_support.sample_vectors(vectors, nlist * _TRAINING_VECTORS_PER_LIST, random, held_out)
    points = rotation.rotate(sample, matrix)
    kmeans.train(points, to_device(faiss.IndexFlatIP(stored_dim)))
    compact = faiss.IndexScalarQuantizer(stored_dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    compact.add(faiss.vector_to_array(kmeans.centroids).reshape(nlist, stored_dim))
    index = _empty_index(recipe, compact, stored_dim)
    # Many parallel sections of microseconds: 2 s on one thread, but 100 s on two if one must wait for its core.
    faiss_support.use_threads(1)
    if recipe.pq_bits:
        index.pq.cp.seed = seed
    size = _TRAINING_VECTORS_PER_CENTROID << (recipe.pq_bits or 4)
    index.train(rotation.rotate(faiss_support.sample_vectors(vectors, size, random, held_out), matrix))
    faiss_support.use_threads(threads)
    complete = rotation.with_rotation(matrix, index)
    owner = faiss_support.clone(complete)  # The parts of `complete` belong to variables of this function.
    _add_vectors(owner, vectors, to_device)
    return IvfIndex(_lists_of(owner, recipe), recipe)


def _empty_index(recipe: IvfRecipe, centroids: Any, dim: int) -> Any:
    common, metric, quantizer = (centroids, dim, recipe.nlist), faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
    makers: dict[str, Callable[[], Any]] = {
        "Flat": lambda: faiss.IndexIVFFlat(*common, metric),
        "SQ8": lambda: faiss.IndexIVFScalarQuantizer(*common, quantizer.QT_8bit, metric),
        "SQ4": lambda: faiss.IndexIVFScalarQuantizer(*common, quantizer.QT_4bit, metric),
        "PQ": lambda: faiss.IndexIVFPQFastScan(*common, recipe.pq_codes, 4, metric),
        "PQ8": lambda: faiss.IndexIVFPQ(*common, recipe.pq_codes, 8, metric),
        "RaBitQ": lambda: faiss.IndexIVFRaBitQ(*common, metric),
        "RaBitQfs": lambda: faiss.IndexIVFRaBitQFastScan(*common, metric),
    }
    return makers[recipe.payload]()


def _add_vectors(
    index: Any, vectors: StoredVectors, to_device: Callable[[Any], Any], positions: I64 | None = None
) -> None:
    """Assign vectors to lists by float32 centroids: for many vectors, faster than the compact ones.

    positions: of those to add, which then are their ids; None: all are added.
    """
    lists = faiss.extract_index_ivf(index)
    matrix = rotation.rotation_of(index)
    compact, centroids = lists.quantizer, faiss.IndexFlatIP(lists.d)
    centroids.add(compact.reconstruct_n(0, lists.nlist))
    centroids = to_device(centroids)
    lists.quantizer = centroids
    try:
        if positions is None:
            for chunk in faiss_support.float32_chunks(vectors):
                lists.add(rotation.rotate(chunk, matrix))
        else:
            for part in faiss_support.chunks(len(positions)):
                chunk = faiss_support.as_float32(vectors[positions[part]])
                lists.add_with_ids(rotation.rotate(chunk, matrix), positions[part])
    finally:
        lists.quantizer = compact
        centroids.this.acquire()  # What is assigned is not freed by its variable any more.
    index.ntotal = lists.ntotal


def _merge_after_whole_blocks(inverted: Any, others: Any, first_id: int) -> None:
    """Move the other lists to those here that end with a whole block of codes; `merge_from` moves the rest.

    It writes beyond the memory of a list that has as many codes as a block has bytes, or a multiple of that
    (`BlockInvertedLists::add_entries` of faiss 1.15.1 compares the wrong two sizes).
    """
    inverted, others = faiss.downcast_InvertedLists(inverted), faiss.downcast_InvertedLists(others)
    for number in range(inverted.nlist):
        before, added = inverted.list_size(number), others.list_size(number)
        if not (before and added) or before % inverted.n_per_block:
            continue
        inverted.resize(number, before + added)
        _ids(inverted, number)[before:] = _ids(others, number) + first_id
        _blocks(inverted, number)[before // inverted.n_per_block :] = _blocks(others, number)
        others.resize(number, 0)


def _ids(inverted: Any, number: int) -> I64:
    """(size,) ids of a list that is not empty, as it has them in memory."""
    ids: I64 = faiss.rev_swig_ptr(inverted.get_ids(number), inverted.list_size(number))
    return ids


def _blocks(inverted: Any, number: int) -> npt.NDArray[np.uint8]:
    """(blocks, bytes) codes of a list that is not empty, as it has them in memory."""
    blocks = -(-inverted.list_size(number) // inverted.n_per_block)
    codes: npt.NDArray[np.uint8] = faiss.rev_swig_ptr(inverted.get_codes(number), blocks * inverted.block_size)
    return codes.reshape(blocks, inverted.block_size)


def _clear_unused(inverted: Any, number: int, before: int) -> None:
    """Clear the codes that a list had after its present end: faiss combines what it adds with the bits that are there.

    before: how many codes the list had.
    """
    codes, nothing = _blocks(inverted, number), np.zeros(inverted.packer.code_size, dtype=np.uint8)
    for unused in range(inverted.list_size(number), min(before, len(codes) * inverted.n_per_block)):
        inverted.packer.pack_1(nothing, unused, codes)


def _train_rotation(recipe: IvfRecipe, points: F32, seed: int) -> F32:
    """(rotated_dim, dim): a projection on the principal directions, then OPQ for PQ codes, or a random rotation."""
    if not recipe.pq_bits:
        return rotation.train_pca(points, recipe.rotated_dim, seed)
    rotated_dim = recipe.rotated_dim
    directions = rotation.principal_directions(points, rotated_dim)
    codes = faiss.OPQMatrix(rotated_dim, recipe.pq_codes, rotated_dim)
    codes.niter = _ROTATION_ITERATIONS
    quantizer = faiss.ProductQuantizer(rotated_dim, recipe.pq_codes, recipe.pq_bits)
    quantizer.cp.seed = seed
    codes.pq = quantizer
    codes.train(points @ directions.T)
    return rotation.matrix_of(codes) @ directions
