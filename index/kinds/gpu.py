"""Kinds of which a copy is searched on a GPU; the original stays beside it, for what a GPU cannot do.

faiss's GPU indexes know no 4-bit fast scan, no bits (RaBitQ), and select at most 2,048 of anything: where more is
wanted, as under a filter that few pass, the original searches, as it would without a GPU.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge

from index.kinds import ivf
from index.kinds.device import AUTO, CPU, Cuda, Device, chosen
from index.kinds.engine import copied, faiss
from index.kinds.ivf import InvertedLists
from index.kinds.owner import Owner
from index.kinds.recipe import Lists
from index.kinds.seam import Codes
from index.kinds.whole import Whole
from index.storage.vectors import Stored
from lookalike.errors import OperatorError
from lookalike.vectors import F32, I64

log = logging.getLogger(__name__)

DEVICE_BYTES = Gauge("lookalike_shard_device_bytes", "Memory computed for the indexes on a GPU.", ["device"])
DEVICE_QUERIES = Counter("lookalike_shard_device_queries", "Queries, by where they were searched.", ["where"])
# device; cpu: of those that a GPU was there for, but more was wanted than it selects
DEVICE_REFUSALS = Counter("lookalike_shard_device_refusals", "Indexes that stayed on the CPU: they did not fit, or so.")

SEARCHABLE = ("Flat", "SQ8", "SQ4", "PQ8")  # Payloads of inverted lists.
MAX_BATCH = 1024  # Queries in one search there. A tile of the GPU's matrix products holds about so many.
_USABLE = 0.9  # Of what is free: the driver, and memory in pieces, take some.
_LIST_ALIGNMENT = 32  # Vectors of a list are laid out in groups of so many.
_ALLOCATION_BYTES = 512  # What an array takes at least.
_ID_BYTES = 4


class Gpu:
    """One device, with the thread that owns it: where codes are put when they are loaded."""

    def __init__(
        self, make: Callable[[], Device], name: str, *, limit_bytes: int, max_waiting: int, optional: bool = False
    ) -> None:
        """make: called on the owner's thread. optional: what does not fit stays on the CPU, and the log says so.

        limit_bytes: of the device's memory, for all codes together; 0: what is free.
        max_waiting: queries; more are refused.
        """
        self.name = name
        self._limit_bytes = limit_bytes
        self._placed_bytes = 0  # The owner's thread alone reads and writes it.
        self._optional = optional
        self.owner = Owner(name, max_batch=MAX_BATCH, max_waiting=max_waiting)
        self.device = self.owner.do(make)

    def place(self, codes: Codes) -> Codes:
        """The codes, searched here from now on. Raises OperatorError, with figures, unless optional."""
        try:
            return self._placed(codes)
        except OperatorError as error:
            if not self._optional:
                raise
            DEVICE_REFUSALS.inc()
            log.warning("searched on the CPU: %s", error)
            return codes

    def _placed(self, codes: Codes) -> OnDevice:
        if isinstance(codes, InvertedLists) and codes.recipe.payload in SEARCHABLE:
            index = _with_plain_centroids(codes.lists)
        elif isinstance(codes, Whole):
            index = codes.index
        else:
            raise OperatorError(
                f"{self.name}: only SQfp16, and IVF with {', '.join(SEARCHABLE)}, can be searched there"
            )
        wanted = bytes_of(codes)
        return OnDevice(codes, self.owner.do(lambda: self._copy(index, wanted)), wanted, self)

    def _copy(self, index: Any, wanted_bytes: int) -> Any:
        """On the owner's thread: refuse before memory runs out."""
        free = self.device.free_bytes()
        left = self._limit_bytes - self._placed_bytes if self._limit_bytes else free
        usable = min(int(free * _USABLE), left)
        if wanted_bytes > usable:
            raise OperatorError(
                f"{self.name}: {index.ntotal} vectors take {_kib(wanted_bytes)} there, "
                f"{_kib(usable)} may be used ({_kib(free)} are free, others here take {_kib(self._placed_bytes)})"
            )
        try:
            there = self.device.copied(index)
        except RuntimeError as error:  # faiss has no other, nor has CUDA.
            raise OperatorError(f"{self.name}: {error}") from error
        self._placed_bytes += wanted_bytes
        taken = free - self.device.free_bytes()
        log.info("%s: %d vectors, %s computed, %s taken", self.name, index.ntotal, _kib(wanted_bytes), _kib(taken))
        return there

    def forget(self, there: list[Any], device_bytes: int) -> None:
        """Free a copy, soon, and count what it took as free."""

        def freed() -> None:
            there.clear()
            self._placed_bytes -= device_bytes

        self.owner.later(freed)
        DEVICE_BYTES.labels(self.name).dec(device_bytes)

    def trained(self, recipe: Lists, vectors: Stored, seed: int, threads: int) -> InvertedLists:
        """As on the CPU, but what a GPU is good at is done there; with its roundings, so not the same to the bit."""
        return self.owner.do(lambda: ivf.trained(recipe, vectors, seed, threads, self.device.copied))

    def close(self) -> None:
        """Returns when all that was asked is done."""
        self.owner.close()


def opened(setting: str, *, limit_bytes: int, max_waiting: int) -> Gpu | None:
    """What a shard's setting stands for; None: no GPU. Raises BadSettings; OperatorError with what is missing."""
    number = chosen(setting)
    if number is None:
        return None
    return Gpu(
        lambda: Cuda(number),
        f"cuda:{number}",
        limit_bytes=limit_bytes,
        max_waiting=max_waiting,
        optional=setting == AUTO,
    )


class OnDevice:
    """`Codes`. A GPU rounds as it likes: candidates at the very edge may depend on what else a batch holds."""

    def __init__(self, original: InvertedLists | Whole, there: Any, device_bytes: int, gpu: Gpu) -> None:
        """there: the copy; freed by the thread that owns it when this goes."""
        self.documents, self.dim, self.factors = original.documents, original.dim, original.factors
        self.device, self.device_bytes = gpu.name, device_bytes
        self._original = original
        self._gpu = gpu
        self._there = [there]
        DEVICE_BYTES.labels(gpu.name).inc(device_bytes)
        weakref.finalize(self, gpu.forget, self._there, device_bytes).atexit = False

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        if max(count, search_parameter) > self._gpu.device.most:
            DEVICE_QUERIES.labels("cpu").inc(len(queries))
            return self._original.candidates(queries, count, search_parameter)
        turned = self._original.turned(queries) if isinstance(self._original, InvertedLists) else queries
        found = self._gpu.owner.search(
            (id(self), count, search_parameter), turned, lambda batch: self._search(batch, count, search_parameter)
        )
        DEVICE_QUERIES.labels("device").inc(len(queries))
        return found

    def _search(self, queries: F32, count: int, search_parameter: int) -> I64:
        """On the owner's thread."""
        lists = isinstance(self._original, InvertedLists)
        parameters = faiss.SearchParametersIVF(nprobe=search_parameter) if lists else None
        found: I64 = self._there[0].search(queries, count, params=parameters)[1]
        return found

    def efforts(self, depth: int) -> Iterable[int]:
        return self._original.efforts(depth)

    def cost(self, search_parameter: int) -> float:
        return self._original.cost(search_parameter)

    def refilled(self, vectors: Stored) -> Codes:
        """On the CPU: what is made anew while a shard serves is small."""
        return self._original.refilled(vectors)

    def ram_bytes(self) -> int:
        return self._original.ram_bytes()

    def write(self, path: Path) -> None:
        self._original.write(path)


def device_of(codes: Codes | None) -> str:
    """Where they are searched; exact search, without codes, is the CPU's."""
    return codes.device if isinstance(codes, OnDevice) else CPU


def bytes_of(codes: InvertedLists | Whole) -> int:
    """What they take of a device's memory, scratch space not counted."""
    if isinstance(codes, Whole):
        return 2 * codes.documents * codes.dim
    lists = codes.lists
    sizes = [int(lists.invlists.list_size(number)) for number in range(lists.nlist)]
    return lists_bytes(sizes, int(lists.code_size)) + 4 * int(lists.nlist) * int(lists.d)


def lists_bytes(sizes: Sequence[int], code_bytes: int) -> int:
    """Of codes and ids in lists of these sizes."""
    padded = (math.ceil(size / _LIST_ALIGNMENT) * _LIST_ALIGNMENT for size in sizes)
    codes = sum(_allocated(size * code_bytes) for size in padded)
    return codes + sum(_allocated(size * _ID_BYTES) for size in sizes)


def _allocated(wanted_bytes: int) -> int:
    return math.ceil(wanted_bytes / _ALLOCATION_BYTES) * _ALLOCATION_BYTES


def _with_plain_centroids(lists: Any) -> Any:
    """A copy whose centroids are float32, as a GPU wants them, and not bfloat16."""
    index = copied(lists)
    compact, centroids = index.quantizer, faiss.IndexFlatIP(index.d)
    centroids.add(compact.reconstruct_n(0, index.nlist))
    index.quantizer = centroids
    try:
        return copied(index)
    finally:
        index.quantizer = compact  # Which it owns, and frees.


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 10):.0f} KiB"
