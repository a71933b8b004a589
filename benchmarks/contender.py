"""Build one index, and measure its memory and speed, in a process of its own. For `benchmarks.ngt_comparison`.

    python -m benchmarks.contender build NAME FOLDER INDEX      build it in INDEX; print time, memory and size
    python -m benchmarks.contender measure NAME FOLDER INDEX    print memory, and the cheapest settings for each recall
    python -m benchmarks.contender writable NAME FOLDER INDEX   NGT: print the memory of an index opened for changes
    python -m benchmarks.contender cold NAME FOLDER INDEX       settings on stdin; print pages read while none is cached
    python -m benchmarks.contender serve NAME FOLDER INDEX      for each line of settings on stdin, print query times

NAME is a recipe of `index/backends/recipe.py`, searched as a shard searches it, or NGT's ANNG or ONNG, searched as its
documentation shows. FOLDER holds vectors, queries and their true neighbours.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.dataset import DIM
from benchmarks.neighbours import recall
from index.backends import factory, recipe
from index.backends.faiss_support import use_threads
from index.search.scores import exact_search
from index.search.space import SpaceIndex
from index.storage import vectors as stored
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.vectors import F32, I64

K = 10
TARGETS = (0.90, 0.95, 0.99)
TUNING_QUERIES = 400  # For finding settings: 4,000 neighbours.
TUNING_ROUNDS = 3  # Of comparing the CPU time of two settings.
COLD_QUERIES = 200
VECTORS = "vectors.npy"
NGT_GRAPHS = ("NGT ANNG", "NGT ONNG")


class SearchSettings(NamedTuple):
    search_parameter: float
    refine_factor: int


class Contender(Protocol):
    refine_factors: Sequence[int]
    search_parameters: Sequence[float]  # Rising; recall rises with them.

    def search(self, query: F32, settings: SearchSettings) -> I64:
        """The rows of the K nearest neighbours that it finds."""

    def rescored(self, query: F32, settings: SearchSettings) -> I64:
        """The rows whose full vectors it reads from disk."""


class ShardContender:
    """Searches as a shard does: candidates from an ANN index, rescored with full, memory-mapped vectors."""

    def __init__(self, name: str, vectors: StoredVectors, index_folder: Path) -> None:
        parsed_recipe = recipe.resolve_recipe(name, len(vectors), DIM, 0)
        self.ann_index = (
            None if parsed_recipe is None else factory.read_index(index_folder / "codes", parsed_recipe, DIM)
        )
        self.space = SpaceIndex(
            entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=self.ann_index
        )
        self.refine_factors: Sequence[int] = (1,) if self.ann_index is None else self.ann_index.refine_factors
        self.search_parameters: Sequence[float] = (
            (1,) if self.ann_index is None else refine_parameter_steps(list(self.ann_index.search_parameters(K)))
        )

    def search(self, query: F32, settings: SearchSettings) -> I64:
        if self.ann_index is None:
            return exact_search(query, self.space.vectors, K).rows
        point = OperatingPoint(
            depth=K,
            search_parameter=int(settings.search_parameter),
            refine_factor=settings.refine_factor,
            cost=0,
            recall=0,
            standard_error=0,
        )
        return self.space.probe(query[None, :], K, point)[0].rows

    def rescored(self, query: F32, settings: SearchSettings) -> I64:
        if self.ann_index is None:
            return np.arange(len(self.space))
        candidates: I64 = self.ann_index.find_candidates(
            query[None, :], K * settings.refine_factor, int(settings.search_parameter)
        )[0]
        return candidates


class NgtContender:
    """NGT alone. Its search parameter is epsilon; it compares full vectors in memory and reads none from disk."""

    refine_factors: Sequence[int] = (1,)
    search_parameters: Sequence[float] = tuple(round(-0.1 + step * 0.005, 3) for step in range(141))

    def __init__(self, index_folder: Path) -> None:
        self._index = import_ngt().Index(str(index_folder / "graph"), read_only=True, log_disabled=True)

    def search(self, query: F32, settings: SearchSettings) -> I64:
        rows: I64 = self._index.search(query, size=K, epsilon=settings.search_parameter, with_distance=False)
        return rows

    def rescored(self, query: F32, settings: SearchSettings) -> I64:
        return np.empty(0, np.int64)


def main(verb: str, name: str, folder: Path, index_folder: Path) -> None:
    use_threads(1)
    threadpool_limits(1, "blas")  # As a shard does: a query's rotation would wait 4 ms for a second thread's core.
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    match verb:
        case "build":
            print(json.dumps(build_contender(name, map_vectors(folder), index_folder)))
        case "measure":
            print(json.dumps(measure_contender(name, map_vectors(folder), queries, truth, index_folder)))
        case "writable":
            print(json.dumps(open_writable(index_folder)))
        case "cold":
            print(json.dumps(measure_cold_reads(name, folder, index_folder, queries, json.loads(sys.stdin.read()))))
        case _:
            contender = open_contender(name, map_vectors(folder), index_folder)
            print("ready", flush=True)
            for line in sys.stdin:
                print(json.dumps(time_queries(contender, queries, **json.loads(line))), flush=True)


def open_contender(name: str, vectors: StoredVectors, index_folder: Path) -> Contender:
    return NgtContender(index_folder) if name in NGT_GRAPHS else ShardContender(name, vectors, index_folder)


def build_contender(name: str, vectors: StoredVectors, index_folder: Path) -> dict[str, float]:
    """Build on one core. CPU seconds, so that other load on the machine counts little."""
    shutil.rmtree(index_folder, ignore_errors=True)
    index_folder.mkdir(parents=True)
    began_s = time.process_time()
    if name in NGT_GRAPHS:
        _build_ngt(name, vectors, index_folder)
    elif (parsed_recipe := recipe.resolve_recipe(name, len(vectors), DIM, 0)) is not None:
        factory.train_index(parsed_recipe, vectors, 0, 1).write(index_folder / "codes")
    took_s = time.process_time() - began_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    disk_bytes = sum(file.stat().st_size for file in index_folder.rglob("*") if file.is_file())
    return {"build_cpu_s": round(took_s, 1), "build_peak_rss_bytes": peak_bytes, "index_bytes": disk_bytes}


def _build_ngt(name: str, vectors: StoredVectors, index_folder: Path) -> None:
    """ANNG with NGT's defaults. ONNG as its wiki says: an ANNG of 100 edges is reduced to 10 outgoing
    and 120 incoming ones, shortcuts are removed and search coefficients fitted."""
    library, graph = import_ngt(), index_folder / "graph"
    edges, first = (10, graph) if name == "NGT ANNG" else (100, index_folder / "anng")
    library.create(str(first), DIM, edge_size_for_creation=edges, distance_type="Normalized Cosine")
    index = library.Index(str(first), log_disabled=True)
    for start in range(0, len(vectors), 1 << 14):
        index.batch_insert(vectors[start : start + (1 << 14)].astype(np.float32), num_threads=1)
    index.save()
    index.close()
    if first != graph:
        library.Optimizer(num_of_outgoings=10, num_of_incomings=120, log_disabled=True).execute(str(first), str(graph))
        shutil.rmtree(first)


def measure_contender(
    name: str, vectors: StoredVectors, queries: F32, truth: I64, index_folder: Path
) -> dict[str, Any]:
    """Measure memory, and for each target recall the settings that need the least CPU time."""
    before = resident_bytes()
    contender = open_contender(name, vectors, index_folder)
    loaded = resident_bytes()
    default = SearchSettings(
        contender.search_parameters[len(contender.search_parameters) // 2], contender.refine_factors[0]
    )
    contender.search(queries[0], default)
    chosen = {
        f"{target:.2f}": find_cheapest_settings(contender, queries[:TUNING_QUERIES], truth, target)
        for target in TARGETS
    }
    for query in queries:
        contender.search(query, chosen["0.95"][0] if chosen["0.95"] else default)
    rows_per_page = max(1, stored.PAGE_BYTES // (DIM * vectors.dtype.itemsize))
    return {
        "before": before,
        "loaded": loaded,
        "warm": resident_bytes(),
        "at_recall": {
            target: {
                **result[0]._asdict(),
                "recall": result[1],
                "pages_touched": count_pages_touched(contender, queries, result[0], rows_per_page),
            }
            for target, result in chosen.items()
            if result is not None
        },
    }


def map_vectors(folder: Path, *, at_random: bool = False) -> StoredVectors:
    """at_random: tell the kernel not to read ahead."""
    array = np.load(folder / VECTORS, mmap_mode="r")
    if at_random:
        array._mmap.madvise(mmap.MADV_RANDOM)
    vectors: StoredVectors = np.asarray(array)
    return vectors


def resident_bytes() -> dict[str, int]:
    """Resident bytes: in all, of the process's own, and of mapped files, which the kernel may evict."""
    ctypes.CDLL(None).malloc_trim(0)  # Return freed memory to the kernel, so that it is not counted.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(status[name].split()[0]) << 10 for name in ("VmRSS", "RssAnon", "RssFile")}


def find_cheapest_settings(
    contender: Contender, queries: F32, truth: I64, target: float
) -> tuple[SearchSettings, float] | None:
    """The settings that reach the target recall with the least CPU time, and their recall; None: out of reach."""

    @cache
    def reached(settings: SearchSettings) -> float:
        return recall([contender.search(query, settings) for query in queries], truth)

    def reaches(at: int) -> bool:
        return reached(SearchSettings(contender.search_parameters[at], factor)) >= target

    best: SearchSettings | None = None
    for factor in contender.refine_factors:
        at = first_true(reaches, len(contender.search_parameters))
        if at is None:
            continue
        settings = SearchSettings(contender.search_parameters[at], factor)
        if best is not None and not is_cheaper(contender, queries, settings, best):
            break
        best = settings
    return None if best is None else (best, round(reached(best), 4))


def is_cheaper(contender: Contender, queries: F32, settings: SearchSettings, other: SearchSettings) -> bool:
    """Whether the queries take less CPU time, by medians of rounds in turn: other load then affects both."""
    took_s: dict[SearchSettings, list[float]] = {settings: [], other: []}
    for _ in range(TUNING_ROUNDS):
        for each, rounds in took_s.items():
            began_s = time.process_time()
            for query in queries:
                contender.search(query, each)
            rounds.append(time.process_time() - began_s)
    return float(np.median(took_s[settings])) < float(np.median(took_s[other]))


def first_true(true_at: Callable[[int], bool], count: int) -> int | None:
    """The first position at which a monotonic condition holds, by bisection; None: at none."""
    low, high = 0, 1
    while not true_at(min(high, count) - 1):
        if high >= count:
            return None
        low, high = high, high * 2
    high = min(high, count) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true_at(middle) else (middle + 1, high)
    return low


def refine_parameter_steps(search_parameters: Sequence[int]) -> Sequence[int]:
    """Values between the first and the last: eight for each doubling."""
    low, high = search_parameters[0], search_parameters[-1]
    steps = np.unique(np.round(low * 2 ** (np.arange(8 * np.log2(high / low) + 1) / 8)).astype(int))
    return tuple(int(step) for step in steps)


def open_writable(index_folder: Path) -> dict[str, Any]:
    """Memory of NGT when it is opened for inserts and removals, its default."""
    before = resident_bytes()
    index = import_ngt().Index(str(index_folder / "graph"), log_disabled=True)
    return {"before": before, "loaded": resident_bytes(), "objects": index.get_num_of_objects()}


def count_pages_touched(contender: Contender, queries: F32, settings: SearchSettings, rows_per_page: int) -> float:
    """Mean number of pages of full vectors that a query reads."""
    candidates = (contender.rescored(query, settings) for query in queries[:COLD_QUERIES])
    return round(float(np.mean([len(np.unique(rows[rows >= 0] // rows_per_page)) for rows in candidates])), 1)


def measure_cold_reads(
    name: str, folder: Path, index_folder: Path, queries: F32, settings_list: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """Pages that a query reads from disk while no full vector is cached, including read-ahead.

    Measured with the default mapping, and with the kernel told to expect random reads.
    """
    results = []
    for settings in settings_list:
        pages = []
        for advised in (False, True):
            with (folder / VECTORS).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            contender = open_contender(name, map_vectors(folder, at_random=advised), index_folder)
            pages.append(
                measure_pages_read(
                    contender,
                    queries[:COLD_QUERIES],
                    SearchSettings(settings["search_parameter"], int(settings["refine_factor"])),
                )
            )
            del contender  # The kernel cannot evict pages that are mapped.
        results.append(dict(zip(("cold_pages_read", "cold_pages_read_at_random"), pages, strict=True)))
    return results


def measure_pages_read(contender: Contender, queries: F32, settings: SearchSettings) -> float:
    """Pages read from disk per query."""
    before = disk_bytes_read()
    for query in queries:
        contender.search(query, settings)
    return round((disk_bytes_read() - before) / stored.PAGE_BYTES / len(queries), 1)


def disk_bytes_read() -> int:
    """Bytes that this process has read from block devices."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes:")[2].split()[0])


def time_queries(
    contender: Contender, queries: F32, *, search_parameter: float, refine_factor: int, count: int
) -> list[float]:
    """CPU milliseconds of each query, one at a time: its latency on a free core."""
    settings, took_ms = SearchSettings(search_parameter, refine_factor), []
    for i in range(count):
        began_ns = time.thread_time_ns()
        contender.search(queries[i % len(queries)], settings)
        took_ms.append((time.thread_time_ns() - began_ns) / 1e6)
    return took_ms


def import_ngt() -> Any:
    return import_module("ngtpy")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
