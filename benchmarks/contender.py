"""One way of searching vectors in a process of its own: built, weighed, timed. For `benchmarks.ngt_comparison`.

    python -m benchmarks.contender build NAME FOLDER WHERE     builds it in WHERE; prints what that took
    python -m benchmarks.contender weigh NAME FOLDER WHERE     memory before and after loading; least effort per recall
    python -m benchmarks.contender change NAME FOLDER WHERE    NGT: memory where it is opened to be changed
    python -m benchmarks.contender cold NAME FOLDER WHERE      knobs in; out: what a query reads of a file not in memory
    python -m benchmarks.contender serve NAME FOLDER WHERE     a line of JSON in: how hard, how often; a line out: times

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

from benchmarks.dataset import DIM
from index.backends import factory, recipe
from index.backends.faiss_support import use_threads
from index.search.scores import exact_search
from index.search.space import SpaceIndex
from index.storage import vectors as stored
from index.storage.manifest import IndexEntry, OperatingPoint
from index.storage.vectors import StoredVectors
from lookalike.vectors import F32, I64

K = 10
TARGETS = (0.90, 0.95, 0.99)
SWEPT = 400  # Queries by which search parameters are compared: 4,000 neighbours.
COLD = 200
VECTORS = "vectors.npy"
NGT_GRAPHS = ("NGT ANNG", "NGT ONNG")


class Knobs(NamedTuple):
    search_parameter: float
    factor: int


class Contender(Protocol):
    refine_factors: Sequence[int]
    search_parameters: Sequence[float]  # Rising; recall rises with them.

    def search(self, query: F32, knobs: Knobs) -> I64:
        """The rows of the K nearest that it finds."""

    def rescored(self, query: F32, knobs: Knobs) -> I64:
        """The rows whose full vectors it reads from disk for that."""


class Recipe:
    """As a shard searches: candidates by compressed codes, compared again by their full, memory-mapped vectors."""

    def __init__(self, name: str, vectors: StoredVectors, where: Path) -> None:
        made = recipe.resolve_recipe(name, len(vectors), DIM, 0)
        self.codes = None if made is None else factory.read_index(where / "codes", made, DIM)
        self.space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=self.codes)
        self.refine_factors: Sequence[int] = (1,) if self.codes is None else self.codes.refine_factors
        self.search_parameters: Sequence[float] = (
            (1,) if self.codes is None else finer(list(self.codes.search_parameters(K)))
        )

    def search(self, query: F32, knobs: Knobs) -> I64:
        if self.codes is None:
            return exact_search(query, self.space.vectors, K).rows
        point = OperatingPoint(
            depth=K, search_parameter=int(knobs.search_parameter), refine_factor=knobs.factor, cost=0, recall=0
        )
        return self.space.probe(query[None, :], K, point)[0].rows

    def rescored(self, query: F32, knobs: Knobs) -> I64:
        if self.codes is None:
            return np.arange(len(self.space))
        found: I64 = self.codes.find_candidates(query[None, :], K * knobs.factor, int(knobs.search_parameter))[0]
        return found


class Ngt:
    """NGT by itself; the search parameter is its epsilon. It compares full vectors in memory; nothing is on disk."""

    refine_factors: Sequence[int] = (1,)
    search_parameters: Sequence[float] = tuple(round(-0.1 + step * 0.005, 3) for step in range(141))

    def __init__(self, where: Path) -> None:
        self._index = ngtpy().Index(str(where / "graph"), read_only=True, log_disabled=True)

    def search(self, query: F32, knobs: Knobs) -> I64:
        found: I64 = self._index.search(query, size=K, epsilon=knobs.search_parameter, with_distance=False)
        return found

    def rescored(self, query: F32, knobs: Knobs) -> I64:
        return np.empty(0, np.int64)


def main(verb: str, name: str, folder: Path, where: Path) -> None:
    use_threads(1)
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    match verb:
        case "build":
            print(json.dumps(built(name, mapped(folder), where)))
        case "weigh":
            print(json.dumps(weighed(name, mapped(folder), queries, truth, where)))
        case "change":
            print(json.dumps(open_to_change(where)))
        case "cold":
            print(json.dumps(cold(name, folder, where, queries, json.loads(sys.stdin.read()))))
        case _:
            contender = opened(name, mapped(folder), where)
            print("ready", flush=True)
            for line in sys.stdin:
                print(json.dumps(timed(contender, queries, **json.loads(line))), flush=True)


def opened(name: str, vectors: StoredVectors, where: Path) -> Contender:
    return Ngt(where) if name in NGT_GRAPHS else Recipe(name, vectors, where)


def built(name: str, vectors: StoredVectors, where: Path) -> dict[str, float]:
    """On one core. CPU seconds, so that others on the machine count little."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    began_s = time.process_time()
    if name in NGT_GRAPHS:
        _build_ngt(name, vectors, where)
    elif (made := recipe.resolve_recipe(name, len(vectors), DIM, 0)) is not None:
        factory.train_index(made, vectors, 0, 1).write(where / "codes")
    took_s = time.process_time() - began_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    disk_bytes = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
    return {"build_cpu_s": round(took_s, 1), "build_peak_rss_bytes": peak_bytes, "index_bytes": disk_bytes}


def _build_ngt(name: str, vectors: StoredVectors, where: Path) -> None:
    """ANNG with NGT's defaults. ONNG as its wiki says: an ANNG of 100 edges, of which 10 outgoing and 120 incoming are
    chosen anew, shortcuts taken out and search coefficients fitted."""
    library, graph = ngtpy(), where / "graph"
    edges, first = (10, graph) if name == "NGT ANNG" else (100, where / "anng")
    library.create(str(first), DIM, edge_size_for_creation=edges, distance_type="Normalized Cosine")
    index = library.Index(str(first), log_disabled=True)
    for start in range(0, len(vectors), 1 << 14):
        index.batch_insert(vectors[start : start + (1 << 14)].astype(np.float32), num_threads=1)
    index.save()
    index.close()
    if first != graph:
        library.Optimizer(num_of_outgoings=10, num_of_incomings=120, log_disabled=True).execute(str(first), str(graph))
        shutil.rmtree(first)


def weighed(name: str, vectors: StoredVectors, queries: F32, truth: I64, where: Path) -> dict[str, Any]:
    """What it takes in memory, and how hard it must look for each recall: the cheapest way, by CPU time."""
    before = memory()
    contender = opened(name, vectors, where)
    loaded = memory()
    cold_start = Knobs(contender.search_parameters[len(contender.search_parameters) // 2], contender.refine_factors[0])
    contender.search(queries[0], cold_start)
    chosen = {f"{target:.2f}": least(contender, queries[:SWEPT], truth, target) for target in TARGETS}
    for query in queries:
        contender.search(query, chosen["0.95"][0] if chosen["0.95"] else cold_start)
    rows_per_page = max(1, stored.PAGE_BYTES // (DIM * vectors.dtype.itemsize))
    return {
        "before": before,
        "loaded": loaded,
        "warm": memory(),
        "at_recall": {
            target: {
                **found[0]._asdict(),
                "recall": found[1],
                "pages_touched": touched(contender, queries, found[0], rows_per_page),
            }
            for target, found in chosen.items()
            if found is not None
        },
    }


def mapped(folder: Path, *, at_random: bool = False) -> StoredVectors:
    """at_random: the kernel shall not read ahead."""
    array = np.load(folder / VECTORS, mmap_mode="r")
    if at_random:
        array._mmap.madvise(mmap.MADV_RANDOM)
    vectors: StoredVectors = np.asarray(array)
    return vectors


def memory() -> dict[str, int]:
    """Bytes resident: of the process's own, and of files that it maps, which the kernel may take back."""
    ctypes.CDLL(None).malloc_trim(0)  # What was freed and not yet given back is nobody's.
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(said[name].split()[0]) << 10 for name in ("VmRSS", "RssAnon", "RssFile")}


def least(contender: Contender, queries: F32, truth: I64, target: float) -> tuple[Knobs, float] | None:
    """The knobs that reach the recall with the least CPU time, and the recall that they have."""

    @cache
    def tried(knobs: Knobs) -> tuple[float, float]:
        began_s = time.process_time()
        found = [contender.search(query, knobs) for query in queries]
        return recall(found, truth), time.process_time() - began_s

    def reaches(at: int) -> bool:
        return tried(Knobs(contender.search_parameters[at], factor))[0] >= target

    best: Knobs | None = None
    for factor in contender.refine_factors:
        at = first(reaches, len(contender.search_parameters))
        if at is None:
            continue
        knobs = Knobs(contender.search_parameters[at], factor)
        if best is not None and tried(knobs)[1] > tried(best)[1]:
            break
        best = knobs
    return None if best is None else (best, round(tried(best)[0], 4))


def first(true_at: Callable[[int], bool], count: int) -> int | None:
    """The least position at which it is true, where from there on it stays so; None: nowhere."""
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


def finer(search_parameters: Sequence[int]) -> Sequence[int]:
    """Eight steps for each doubling."""
    least, most = search_parameters[0], search_parameters[-1]
    steps = np.unique(np.round(least * 2 ** (np.arange(8 * np.log2(most / least) + 1) / 8)).astype(int))
    return tuple(int(step) for step in steps)


def recall(found: Sequence[I64], truth: I64) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=False)]))


def open_to_change(where: Path) -> dict[str, Any]:
    """What NGT takes when it is opened so that objects can be inserted and removed, its default."""
    before = memory()
    index = ngtpy().Index(str(where / "graph"), log_disabled=True)
    return {"before": before, "loaded": memory(), "objects": index.get_num_of_objects()}


def touched(contender: Contender, queries: F32, knobs: Knobs, rows_per_page: int) -> float:
    """Pages of full vectors that a query looks at."""
    candidates = (contender.rescored(query, knobs) for query in queries[:COLD])
    return round(float(np.mean([len(np.unique(rows[rows >= 0] // rows_per_page)) for rows in candidates])), 1)


def cold(
    name: str, folder: Path, where: Path, queries: F32, at: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    """Pages that a query reads from the disk while none of the full vectors is in memory, read-ahead counted.

    As vectors are mapped, and where the kernel is told that they are read at random.
    """
    read = []
    for knobs in at:
        pages = []
        for advised in (False, True):
            with (folder / VECTORS).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            contender = opened(name, mapped(folder, at_random=advised), where)
            pages.append(pages_read(contender, queries[:COLD], Knobs(knobs["search_parameter"], int(knobs["factor"]))))
            del contender  # What is mapped cannot be forgotten.
        read.append(dict(zip(("cold_pages_read", "cold_pages_read_at_random"), pages, strict=True)))
    return read


def pages_read(contender: Contender, queries: F32, knobs: Knobs) -> float:
    """From the disk, for a query."""
    before = read_bytes()
    for query in queries:
        contender.search(query, knobs)
    return round((read_bytes() - before) / stored.PAGE_BYTES / len(queries), 1)


def read_bytes() -> int:
    """From block devices, by this process since it began."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes:")[2].split()[0])


def timed(contender: Contender, queries: F32, *, search_parameter: float, factor: int, count: int) -> list[float]:
    """CPU milliseconds of each query, one at a time: on a core of its own that is how long it takes."""
    knobs, took_ms = Knobs(search_parameter, factor), []
    for i in range(count):
        began_ns = time.thread_time_ns()
        contender.search(queries[i % len(queries)], knobs)
        took_ms.append((time.thread_time_ns() - began_ns) / 1e6)
    return took_ms


def ngtpy() -> Any:
    return import_module("ngtpy")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
