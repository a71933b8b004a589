"""Graph backends at recall@10 of 0.95: CPU per query of a space's search, and of the bare library with the same graph.

Vectors are `noisy` of `benchmarks/dataset.py`, queries others of their distribution. For each recipe the cheapest
settings that reach the recall are found on 400 queries; `SpaceIndex.search`, rescoring included, and the bare library
(which neither rotates nor rescores) then run in turn on one thread, `--rounds` times; results are medians over all
queries. Memory is what a process gains by loading the index.

    python -m benchmarks.graph_search FOLDER [--count 100000] [--rounds 7] [--set noisy|cnn] [--only RECIPE ...]

FOLDER keeps the indexes; --build makes those that it lacks and measures nothing, on a machine that need not be quiet.
Writes benchmarks/results/graph_search_<set>_<count>.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.contender import K, find_cheapest_settings, refine_parameter_steps, resident_bytes
from benchmarks.contender import SearchSettings as Settings
from benchmarks.dataset import DIM, cnn_like, noisy
from benchmarks.meter import write
from benchmarks.neighbours import nearest, recall
from index.backends import factory, faiss_support, rotation
from index.backends.faiss_support import faiss
from index.backends.hnsw import HnswIndex
from index.backends.recipe import resolve_recipe
from index.backends.symqg import SymqgIndex
from index.search.space import BATCH, SpaceIndex
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.vectors import F32, I64

TARGET = 0.95
QUERIES = 1_000
TUNING_QUERIES = 400
RECIPES = ("HNSW32,SQ8", "PCAR256,HNSW24,SQ8", "SymQG32", "PCAR384,SymQG32", "PCAR256,SymQG32")
SETS = {"noisy": noisy, "cnn": cnn_like}

Search = Callable[[F32], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", choices=tuple(SETS), default="noisy")
    parser.add_argument("--only", nargs="+", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--build", action="store_true", help="only build the indexes that FOLDER lacks")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    faiss_support.use_threads(1)
    threadpool_limits(1, "blas")
    vectors, queries = SETS[options.set](options.count, QUERIES)
    for name in options.only:
        build(name, options.folder, vectors)
    if options.build:
        return
    truth = nearest(vectors, queries)
    contenders = [Contender(name, options.folder, vectors, queries, truth) for name in options.only]
    timings = time_all(contenders, options.rounds)
    rows = {each.name: {**each.row(queries, truth), "cpu_us_per_query": timings[each.name]} for each in contenders}
    print(
        write(
            f"graph_search_{options.set}_{options.count}",
            {
                "vectors": f"{options.count} x {DIM}, {options.set} of benchmarks/dataset.py, k={K}",
                "rows": rows,
                "caveats": "a shared machine: compare ratios; full vectors are float32 in memory",
            },
        )
    )


def index_path(name: str, folder: Path) -> Path:
    return folder / name.replace(",", "-")


def build_time_path(name: str, folder: Path) -> Path:
    """A file that holds the CPU seconds of the build."""
    return folder / f"{index_path(name, folder).name}.build_cpu_s"


def build(name: str, folder: Path, vectors: F32) -> None:
    """Build an index on one core, unless the folder has it."""
    if build_time_path(name, folder).exists():
        return
    recipe = resolve_recipe(name, len(vectors), DIM, 0)
    assert recipe is not None  # noqa: S101  # no recipe is Flat
    began_s = time.process_time()
    index = factory.train_index(recipe, vectors, 0, 1)
    took_s = time.process_time() - began_s
    index.write(index_path(name, folder))
    build_time_path(name, folder).write_text(f"{took_s:.1f}")


class Contender:
    """An index at its cheapest settings, and its bare library at the same ones."""

    def __init__(self, name: str, folder: Path, vectors: F32, queries: F32, truth: I64) -> None:
        self.name = name
        recipe = resolve_recipe(name, len(vectors), DIM, 0)
        assert recipe is not None  # noqa: S101  # no recipe is Flat
        self.build_cpu_s = float(build_time_path(name, folder).read_text())
        before = resident_bytes()["RssAnon"]
        index = factory.read_index(index_path(name, folder), recipe, DIM)
        assert isinstance(index, HnswIndex | SymqgIndex), name  # noqa: S101  # RECIPES names no others
        self.index = index
        self.loaded_bytes = (resident_bytes()["RssAnon"] - before) / len(vectors)
        self.search_parameters: Sequence[float] = refine_parameter_steps([*self.index.search_parameters(K)])
        self.refine_factors: Sequence[int] = self.index.refine_factors
        self._vectors = vectors
        cheapest = find_cheapest_settings(self, queries[:TUNING_QUERIES], truth, TARGET)
        if cheapest is None:
            raise RuntimeError(f"{name} does not reach {TARGET}")
        self.settings, _ = cheapest
        self.space = self._space(self.settings)
        bare = bare_search(self.index, K * self.settings.refine_factor, int(self.settings.search_parameter))
        self.searches: dict[str, tuple[Search, F32]] = {
            "search": (lambda part: self.space.search(part, K), queries),
            "bare": (bare, rotation.rotate_queries(queries, self.index.rotation)),
        }
        print(name, self.settings, flush=True)

    def _space(self, settings: Settings) -> SpaceIndex:
        point = OperatingPoint(
            depth=K,
            search_parameter=int(settings.search_parameter),
            refine_factor=settings.refine_factor,
            cost=0,
            recall=TARGET,
            standard_error=0,
        )
        entry = IndexEntry(recipe=self.name, operating_points=(point,))
        return SpaceIndex(entry=entry, vectors=self._vectors, rows=np.arange(len(self._vectors)), ann_index=self.index)

    def search(self, query: F32, settings: Settings) -> I64:
        space = self._space(settings)
        return space.probe(query[None, :], K, space.entry.operating_points[0])[0].rows

    def rescored(self, query: F32, settings: Settings) -> I64:
        return self.search(query, settings)

    def row(self, queries: F32, truth: I64) -> dict[str, Any]:
        found = [neighbours.rows for neighbours in self.space.search(queries, K)]
        return {
            "search_parameter": int(self.settings.search_parameter),
            "candidates": K * self.settings.refine_factor,
            "recall_at_10": round(recall(found, truth), 4),
            "ram_bytes_per_vector": round(self.index.ram_bytes() / len(self._vectors), 1),
            "loaded_bytes_per_vector": round(self.loaded_bytes, 1),
            "build_cpu_s": self.build_cpu_s,
        }


def bare_search(index: HnswIndex | SymqgIndex, count: int, search_parameter: int) -> Search:
    """The library's own search, for queries that are rotated already."""
    graph = index.graph
    if isinstance(index, HnswIndex):
        parameters = faiss.SearchParametersHNSW(efSearch=search_parameter)
        return lambda part: graph.search(part, count, params=parameters)
    size = min(count, search_parameter)
    return lambda part: graph.search(part, size, search_parameter)


def time_all(contenders: Sequence[Contender], rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU microseconds of a query, by contender, and by search and size of batch."""
    took_us: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):  # The first warms up.
        for contender in contenders:
            for batch in (1, BATCH):
                for what, (search, queries) in contender.searches.items():
                    parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
                    began_s = time.thread_time()
                    for part in parts:
                        search(part)
                    cpu_us = (time.thread_time() - began_s) / len(queries) * 1e6
                    took_us.setdefault((contender.name, f"{what}, batch {batch}"), []).extend([cpu_us] if turn else [])
    return {
        contender.name: {
            what: round(float(np.median(rounds_us)), 1)
            for (name, what), rounds_us in took_us.items()
            if name == contender.name
        }
        for contender in contenders
    }


if __name__ == "__main__":
    main()
