"""Vector indexes with a copy on a GPU that searches, and the original in memory. Copies to GPU memory.

faiss's GPU indexes support neither 4-bit fast scan nor RaBitQ, and select at most 2,048 candidates or lists. If a
search needs more, as under a selective filter, the original is searched on the CPU.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge

from index.backends import ivf
from index.backends.device import AUTO, CPU, CudaDevice, Device, parse_device
from index.backends.device_thread import DeviceThread
from index.backends.faiss_support import clone, faiss
from index.backends.ivf import IvfIndex
from index.backends.recipe import IvfRecipe
from index.backends.scalar_quantizer import ScalarQuantizerIndex
from index.backends.vector_index import VectorIndex
from index.storage.vectors import StoredVectors
from lookalike.errors import OperatorError
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

DEVICE_BYTES = Gauge("lookalike_shard_device_bytes", "Computed memory of the indexes on a GPU.", ["device"])
# where: device; or cpu, for searches that need more candidates or lists than the GPU selects
DEVICE_QUERIES = Counter("lookalike_shard_device_queries", "Queries of indexes on a GPU, by where they ran.", ["where"])
DEVICE_REFUSALS = Counter(
    "lookalike_shard_device_refusals", "Indexes that stayed on the CPU: too large for the GPU, or not searchable there."
)

SEARCHABLE = ("Flat", "SQ8", "SQ4", "PQ8")  # IVF payloads that faiss can search on a GPU.
MAX_BATCH = 1024  # Queries in one search, about as many as a tile of the GPU's matrix products holds.
_USABLE = 0.9  # Share of the free memory; driver and fragmentation take the rest.
_LIST_ALIGNMENT = 32  # Lists are padded to a multiple of 32 vectors.
_ALLOCATION_BYTES = 512  # Memory is allocated in multiples of this.
_ID_BYTES = 4


class Gpu:
    """One GPU with the thread that owns it: `place` copies loaded indexes there."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        name: str,
        *,
        limit_bytes: int,
        max_waiting: int,
        optional: bool = False,
    ) -> None:
        """open_device: called on the device thread.

        limit_bytes: of GPU memory, for all indexes together; 0: all that is free.
        max_waiting: most waiting queries; further ones are refused.
        optional:    an index that does not fit stays on the CPU, and a warning is logged.
        """
        self.name = name
        self._limit_bytes = limit_bytes
        self._placed_bytes = 0  # Only the device thread reads and writes it.
        self._optional = optional
        self.device_thread = DeviceThread(name, max_batch=MAX_BATCH, max_waiting=max_waiting)
        self.device = self.device_thread.run(open_device)

    def place(self, index: VectorIndex) -> VectorIndex:
        """Copy an index to this GPU; returns the index that searches there.

        If it cannot be copied: raises OperatorError with figures or, if `optional`, returns it unchanged.
        """
        try:
            return self._place(index)
        except OperatorError as error:
            if not self._optional:
                raise
            DEVICE_REFUSALS.inc()
            log.warning("searched on the CPU: %s", error)
            return index

    def _place(self, index: VectorIndex) -> GpuIndex:
        if isinstance(index, IvfIndex) and index.recipe.payload in SEARCHABLE:
            original = _with_float32_centroids(index)
        elif isinstance(index, ScalarQuantizerIndex):
            original = index.index
        else:
            raise OperatorError(
                f"{self.name}: only SQfp16, and IVF with {', '.join(SEARCHABLE)}, can be searched there"
            )
        needed_bytes = device_bytes_of(index)
        copy = self.device_thread.run(lambda: self._copy(original, needed_bytes))
        return GpuIndex(index, copy, needed_bytes, self)

    def _copy(self, index: Any, needed_bytes: int) -> Any:
        """Copy, on the device thread. Raises OperatorError, before memory runs out."""
        free = self.device.free_bytes()
        left = self._limit_bytes - self._placed_bytes if self._limit_bytes else free
        usable = min(int(free * _USABLE), left)
        if needed_bytes > usable:
            raise OperatorError(
                f"{self.name}: {index.ntotal} vectors need {_kib(needed_bytes)}, {_kib(usable)} may be used "
                f"({_kib(free)} are free, other indexes take {_kib(self._placed_bytes)})"
            )
        try:
            copy = self.device.copy_to_device(index)
        except RuntimeError as error:  # The only exception that faiss and CUDA raise.
            raise OperatorError(f"{self.name}: {error}") from error
        self._placed_bytes += needed_bytes
        taken = free - self.device.free_bytes()
        log.info("%s: %d vectors, %s computed, %s taken", self.name, index.ntotal, _kib(needed_bytes), _kib(taken))
        return copy

    def release_copy(self, copies: list[Any], device_bytes: int) -> None:
        """Free a copy, on the device thread, and count its memory as free."""

        def release() -> None:
            copies.clear()
            self._placed_bytes -= device_bytes

        self.device_thread.run_later(release)
        DEVICE_BYTES.labels(self.name).dec(device_bytes)

    def train_ivf(self, recipe: IvfRecipe, vectors: StoredVectors, seed: int, threads: int) -> IvfIndex:
        """As `ivf.train`, but compares vectors with centroids on the GPU, which rounds otherwise in the last bits."""
        return self.device_thread.run(lambda: ivf.train(recipe, vectors, seed, threads, self.device.copy_to_device))

    def close(self) -> None:
        """Return when all queued work is done."""
        self.device_thread.close()


def open_gpu(setting: str, *, limit_bytes: int, max_waiting: int) -> Gpu | None:
    """The GPU that a shard's setting names; None: the CPU. Raises BadSettings; OperatorError with the reason."""
    number = parse_device(setting)
    if number is None:
        return None
    return Gpu(
        lambda: CudaDevice(number),
        f"cuda:{number}",
        limit_bytes=limit_bytes,
        max_waiting=max_waiting,
        optional=setting == AUTO,
    )


class GpuIndex:
    """A `VectorIndex` that searches on a GPU. By rounding, its last candidates may depend on the rest of a batch."""

    def __init__(self, original: IvfIndex | ScalarQuantizerIndex, copy: Any, device_bytes: int, gpu: Gpu) -> None:
        """copy: on the device; the device thread frees it when this object is collected."""
        self.documents, self.dim, self.refine_factors = original.documents, original.dim, original.refine_factors
        self.device, self.device_bytes = gpu.name, device_bytes
        self._original = original
        self._gpu = gpu
        self._copies = [copy]
        DEVICE_BYTES.labels(gpu.name).inc(device_bytes)
        weakref.finalize(self, gpu.release_copy, self._copies, device_bytes).atexit = False

    def find_candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        if max(count, search_parameter) > self._gpu.device.max_selected:
            DEVICE_QUERIES.labels("cpu").inc(len(queries))
            return self._original.find_candidates(queries, count, search_parameter)
        rotated = self._original.rotate(queries) if isinstance(self._original, IvfIndex) else queries
        positions = self._gpu.device_thread.search(
            (id(self), count, search_parameter), rotated, lambda batch: self._search(batch, count, search_parameter)
        )
        DEVICE_QUERIES.labels("device").inc(len(queries))
        return positions

    def _search(self, queries: F32, count: int, search_parameter: int) -> I64:
        """On the device thread."""
        is_ivf = isinstance(self._original, IvfIndex)
        parameters = faiss.SearchParametersIVF(nprobe=search_parameter) if is_ivf else None
        positions: I64 = self._copies[0].search(queries, count, params=parameters)[1]
        return positions

    def search_parameters(self, depth: int) -> Iterable[int]:
        return self._original.search_parameters(depth)

    def cost(self, search_parameter: int) -> float:
        return self._original.cost(search_parameter)

    def with_vectors(self, vectors: StoredVectors) -> VectorIndex:
        """Returns an index on the CPU: those that a shard builds while it serves are small."""
        return self._original.with_vectors(vectors)

    def without(
        self, positions: I64, vectors: StoredVectors
    ) -> AbstractContextManager[tuple[VectorIndex, StoredVectors]]:
        """Returns an index on the CPU, which finds the same."""
        return self._original.without(positions, vectors)

    def ram_bytes(self) -> int:
        return self._original.ram_bytes()

    def write(self, path: Path) -> None:
        self._original.write(path)


def device_of(index: VectorIndex | None) -> str:
    """The name of the device that searches an index; exact search (None) runs on the CPU."""
    return index.device if isinstance(index, GpuIndex) else CPU


def device_bytes_of(index: IvfIndex | ScalarQuantizerIndex) -> int:
    """Device memory that a copy takes, without scratch space."""
    if isinstance(index, ScalarQuantizerIndex):
        return 2 * index.documents * index.dim
    lists = faiss.extract_index_ivf(index.lists.index)
    sizes = [int(lists.invlists.list_size(number)) for number in range(lists.nlist)]
    return inverted_lists_bytes(sizes, int(lists.code_size)) + 4 * int(lists.nlist) * int(lists.d)


def inverted_lists_bytes(sizes: Sequence[int], code_bytes: int) -> int:
    """Device memory of codes and ids in lists of these sizes."""
    padded = (math.ceil(size / _LIST_ALIGNMENT) * _LIST_ALIGNMENT for size in sizes)
    codes = sum(_allocated_bytes(size * code_bytes) for size in padded)
    return codes + sum(_allocated_bytes(size * _ID_BYTES) for size in sizes)


def _allocated_bytes(requested_bytes: int) -> int:
    return math.ceil(requested_bytes / _ALLOCATION_BYTES) * _ALLOCATION_BYTES


def _with_float32_centroids(ivf_index: IvfIndex) -> Any:
    """A copy, without the rotation, whose centroids are float32, as a GPU needs them, and not bfloat16."""
    whole = ivf_index.lists.copy_with_ids()
    index = faiss.extract_index_ivf(whole)
    compact, centroids = index.quantizer, faiss.IndexFlatIP(index.d)
    centroids.add(compact.reconstruct_n(0, index.nlist))
    index.quantizer = centroids
    try:
        return clone(index)
    finally:
        index.quantizer = compact  # Which it owns, and frees.
        centroids.this.acquire()  # As in `index/backends/ivf.py`.


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 10):.0f} KiB"
