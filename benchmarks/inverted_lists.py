"""Inverted lists without ids: CPU per query and memory at equal recall, beside the same lists with ids and fast scan.

Vectors are those of `benchmarks/dataset.py`, mapped as float16; queries are others. For each recipe and target recall
the cheapest settings are found on 1,000 queries, and their recall is that of 2,000 others. All then run in turn on one
thread, `--rounds` times, one query at a time and in batches of 16, rescoring included; results are medians. Memory is
the index's; `shard_start` has that of a process.

    python -m benchmarks.inverted_lists FOLDER [--count 1000000] [--rounds 9]

FOLDER keeps vectors and indexes. Writes benchmarks/results/inverted_lists_<count>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import (
    VECTORS,
    SearchSettings,
    first_true,
    map_vectors,
    refine_parameter_steps,
)
from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import write
from benchmarks.neighbours import K, nearest, recall
from index.backends import faiss_support, ivf
from index.backends.fast_scan_lists import FastScanLists
from index.backends.ivf import IvfIndex
from index.backends.recipe import IvfRecipe, resolve_recipe
from index.search.space import BATCH, SpaceIndex
from index.storage import vectors as stored
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.vectors import F32, I64

CHOOSING, STATING, TIMED = 1_000, 2_000, 256  # Queries.
SURPLUS = 0.006  # Of recall when settings are chosen, so that other queries reach the target, too.
WITH_IDS = ", with ids"
# The first of a target is what others are compared with.
CONTENDERS = (
    ("PCAR128,IVF,RaBitQ" + WITH_IDS, 0.90),
    ("PCAR128,IVF,RaBitQ", 0.90),
    ("PCAR96,IVF,RaBitQ", 0.90),
    ("PCAR256,IVF,RaBitQfs", 0.95),
    ("PCAR128,IVF,RaBitQ", 0.95),
    ("PCAR96,IVF,RaBitQ", 0.95),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    faiss_support.use_threads(1)
    vectors, queries, truth = prepare(options.folder, options.count)
    indexes = {
        name: open_index(options.folder, name, vectors) for name in dict.fromkeys(name for name, _ in CONTENDERS)
    }
    contenders = [Contender(indexes[name], vectors) for name, _ in CONTENDERS]
    chosen: dict[tuple[str, float], SearchSettings] = {}
    for (name, target), contender in zip(CONTENDERS, contenders, strict=True):
        key = name.removesuffix(WITH_IDS), target
        if key not in chosen:  # Ids change no candidate.
            chosen[key] = contender.choose_settings(target, queries[:CHOOSING], truth[:CHOOSING])
        contender.settings = chosen[key]
    times: list[dict[int, list[float]]] = [{1: [], BATCH: []} for _ in contenders]
    for _ in range(options.rounds):
        for contender, each in zip(contenders, times, strict=True):
            for batch, took in each.items():
                took.append(contender.cpu_us(queries[CHOOSING:][:TIMED], batch))
    rows = [
        {"recipe": name, "target": target, **contender.row(queries[CHOOSING:], truth[CHOOSING:], took)}
        for (name, target), contender, took in zip(CONTENDERS, contenders, times, strict=True)
    ]
    print(
        write(
            f"inverted_lists_{options.count}",
            {
                "vectors": f"{options.count} x {DIM}, like those of a CNN, kept as float16, k={K}",
                "rows": rows,
                "caveats": "a shared machine: compare ratios",
            },
        )
    )


def prepare(folder: Path, count: int) -> tuple[StoredVectors, F32, I64]:
    """Vectors, queries that are not among them, and the true neighbours of these; kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    queries = CnnLike().queries(CHOOSING + STATING)
    if not (folder / VECTORS).exists():
        stored.write_vectors(folder / VECTORS, CnnLike().vectors(count), documents=count, dim=DIM, rescore="float16")
    vectors, path = map_vectors(folder), folder / f"truth-{len(queries)}.npy"
    if not path.exists():
        np.save(path, nearest(vectors, queries))
    return vectors, queries, np.load(path)


def open_index(folder: Path, name: str, vectors: StoredVectors) -> IvfIndex:
    """Read an index from the folder; build it first, unless it is there."""
    recipe = resolve_recipe(name.removesuffix(WITH_IDS), len(vectors), DIM, 0)
    assert isinstance(recipe, IvfRecipe), name  # noqa: S101  # CONTENDERS names no others
    path = folder / str(recipe)
    if not path.exists():
        ivf.train(recipe, vectors, 0, 1).write(path)
    index = ivf.read_index(path, recipe)
    return IvfIndex(FastScanLists(index.lists.copy_with_ids()), recipe) if name.endswith(WITH_IDS) else index


class Contender:
    """An index, and the settings to search it with."""

    def __init__(self, index: IvfIndex, vectors: StoredVectors) -> None:
        self.index = index
        self._space = SpaceIndex(entry=IndexEntry(), vectors=vectors, rows=np.arange(len(vectors)), ann_index=index)
        self.settings = SearchSettings(1, 1)

    def choose_settings(self, target: float, queries: F32, truth: I64) -> SearchSettings:
        """Choose and return the fastest settings that reach the recall."""
        # A recall that takes a larger share of the lists is not worth it, and slow to measure.
        most = self.index.recipe.nlist // 16
        parameters = [each for each in refine_parameter_steps([*self.index.search_parameters(K)]) if each <= most]
        best_us, best = np.inf, None
        for factor in self.index.refine_factors:

            def reaches(at: int, count: int = K * factor) -> bool:
                parts = (queries[start : start + BATCH] for start in range(0, len(queries), BATCH))
                found = [rows for part in parts for rows in self.index.find_candidates(part, count, parameters[at])]
                return recall(found, truth) >= target + SURPLUS  # Rescoring finds the true ones among candidates.

            if (at := first_true(reaches, len(parameters))) is None:
                continue
            self.settings = SearchSettings(parameters[at], factor)
            if (took_us := min(self.cpu_us(queries[:TIMED], BATCH) for _ in range(3))) > best_us:
                break
            best_us, best = took_us, self.settings
        if best is None:
            raise RuntimeError(f"{self.index.recipe} does not reach {target}")
        self.settings = best
        print(self.index.recipe, target, best, flush=True)
        return best

    def _probe(self, queries: F32) -> list[I64]:
        point = OperatingPoint(
            depth=K,
            search_parameter=int(self.settings.search_parameter),
            refine_factor=self.settings.refine_factor,
            cost=0,
            recall=0,
            standard_error=0,
        )
        return [neighbours.rows for neighbours in self._space.probe(queries, K, point)]

    def cpu_us(self, queries: F32, batch: int) -> float:
        """CPU per query in batches of that size."""
        began_s = time.thread_time()
        for start in range(0, len(queries), batch):
            self._probe(queries[start : start + batch])
        return (time.thread_time() - began_s) / len(queries) * 1e6

    def row(self, queries: F32, truth: I64, cpu_us: dict[int, list[float]]) -> dict[str, Any]:
        found = [
            rows for start in range(0, len(queries), BATCH) for rows in self._probe(queries[start : start + BATCH])
        ]
        return {
            "recall_at_10": round(recall(found, truth), 4),
            "index_bytes_per_vector": round(self.index.ram_bytes() / self.index.documents, 1),
            "nprobe": int(self.settings.search_parameter),
            "rescored": K * self.settings.refine_factor,
            "cpu_us_one_at_a_time": round(float(np.median(cpu_us[1]))),
            f"cpu_us_in_batches_of_{BATCH}": round(float(np.median(cpu_us[BATCH]))),
        }


if __name__ == "__main__":
    main()
