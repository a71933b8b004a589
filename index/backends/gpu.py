"""Vector indexes whose copy is searched on a GPU. The CPU original is kept for what the GPU cannot do.

faiss's GPU indexes know no 4-bit fast scan and no RaBitQ, and select at most 2,048 candidates or lists. Where a search
needs more, as under a filter that few pass, the CPU original searches, as it would without a GPU.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
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

DEVICE_BYTES = Gauge("lookalike_shard_device_bytes", "Memory computed for the indexes on a GPU.", ["device"])
# where: device; or cpu, for searches with a GPU that needed more than it selects
DEVICE_QUERIES = Counter("lookalike_shard_device_queries", "Queries of indexes on a GPU, by where they ran.", ["where"])
DEVICE_REFUSALS = Counter(
    "lookalike_shard_device_refusals", "Indexes that stayed on the CPU: too large for the GPU, or not searchable there."
)

SEARCHABLE = ("Flat", "SQ8", "SQ4", "PQ8")  # IVF payloads that faiss can search on a GPU.
MAX_BATCH = 1024  # Queries in one search there. A tile of the GPU's matrix products holds about so many.
_USABLE = 0.9  # Of what is free: the driver, and fragmentation, take some.
_LIST_ALIGNMENT = 32  # Vectors of a list are laid out in groups of so many.
_ALLOCATION_BYTES = 512  # What an array takes at least.
_ID_BYTES = 4


class Gpu:
    """One GPU with the thread that owns it: `place` copies loaded indexes there."""

    def __init__(
        self, make: Callable[[], Device], name: str, *, limit_bytes: int, max_waiting: int, optional: bool = False
    ) -> None:
        """make: called on the device thread. optional: what does not fit stays on the CPU, with a warning in the log.

        limit_bytes: of the device's memory, for all indexes together; 0: what is free.
        max_waiting: queries; more are refused.
        """
        self.name = name
        self._limit_bytes = limit_bytes
        self._placed_bytes = 0  # The device thread alone reads and writes it.
        self._optional = optional
        self.device_thread = DeviceThread(name, max_batch=MAX_BATCH, max_waiting=max_waiting)
        self.device = self.device_thread.run(make)

    def place(self, index: VectorIndex) -> VectorIndex:
        """An index that searches on this GPU. Unless optional, raises OperatorError with figures if it cannot."""
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
            original = _with_float32_centroids(index.ivf)
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
        """On the device thread: refuse before memory runs out."""
        free = self.device.free_bytes()
        left = self._limit_bytes - self._placed_bytes if self._limit_bytes else free
        usable = min(int(free * _USABLE), left)
        if needed_bytes > usable:
            raise OperatorError(
                f"{self.name}: {index.ntotal} vectors take {_kib(needed_bytes)} there, "
                f"{_kib(usable)} may be used ({_kib(free)} are free, others here take {_kib(self._placed_bytes)})"
            )
        try:
            copy = self.device.copy_to_device(index)
        except RuntimeError as error:  # faiss has no other, nor has CUDA.
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
        """As `ivf.train`, with vectors compared with centroids on the GPU; its roundings differ in the last bits."""
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
    """A `VectorIndex` searched on a GPU, whose roundings let the last candidates depend on what else a batch holds."""

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
        """On the CPU: an index that a shard builds while it serves is small."""
        return self._original.with_vectors(vectors)

    def ram_bytes(self) -> int:
        return self._original.ram_bytes()

    def write(self, path: Path) -> None:
        self._original.write(path)


def device_of(index: VectorIndex | None) -> str:
    """The name of the device that searches an index; exact search (None) runs on the CPU."""
    return index.device if isinstance(index, GpuIndex) else CPU


def device_bytes_of(index: IvfIndex | ScalarQuantizerIndex) -> int:
    """What a copy takes of a device's memory, without scratch space."""
    if isinstance(index, ScalarQuantizerIndex):
        return 2 * index.documents * index.dim
    lists = index.ivf
    sizes = [int(lists.invlists.list_size(number)) for number in range(lists.nlist)]
    return inverted_lists_bytes(sizes, int(lists.code_size)) + 4 * int(lists.nlist) * int(lists.d)


def inverted_lists_bytes(sizes: Sequence[int], code_bytes: int) -> int:
    """Device memory of codes and ids in lists of these sizes."""
    padded = (math.ceil(size / _LIST_ALIGNMENT) * _LIST_ALIGNMENT for size in sizes)
    codes = sum(_allocated_bytes(size * code_bytes) for size in padded)
    return codes + sum(_allocated_bytes(size * _ID_BYTES) for size in sizes)


def _allocated_bytes(requested_bytes: int) -> int:
    return math.ceil(requested_bytes / _ALLOCATION_BYTES) * _ALLOCATION_BYTES


def _with_float32_centroids(ivf_index: Any) -> Any:
    """A copy whose centroids are float32, as a GPU needs them, and not bfloat16."""
    index = clone(ivf_index)
    compact, centroids = index.quantizer, faiss.IndexFlatIP(index.d)
    centroids.add(compact.reconstruct_n(0, index.nlist))
    index.quantizer = centroids
    try:
        return clone(index)
    finally:
        index.quantizer = compact  # Which it owns, and frees.


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 10):.0f} KiB"
