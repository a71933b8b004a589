"""What searches cost a shard once a fifth of its products has changed, by recipe; in one process, without a network.

Of four changes two give a product another vector, one removes a product and one adds one. Three states of the shard are
searched in turn, `--rounds` times, on one thread: as built; the changes compacted; and 1,024 of them in the delta (half
of what starts a compaction). Times are the thread's CPU time per query, products read included, one at a time and in
batches of 16; recall@10 is against exact search of the same state.

    python -m benchmarks.churn FOLDER [--count 100000] [--set noisy|cnn] [--rounds 7] [--only RECIPE ...]

FOLDER keeps the built versions, and their changes. --compact compacts the changes anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from benchmarks.dataset import DIM, cnn_like, noisy
from benchmarks.live_updates import generate_updates
from benchmarks.meter import write
from benchmarks.neighbours import K
from index.backends.faiss_support import use_threads
from index.building.build import IndexOptions, SpaceVectors, build
from index.live.live_shard import LiveLimits, LiveShard
from index.search.cost import UNLIMITED
from index.search.space import BATCH
from index.search.view import View
from index.serving.shard_search import ShardSearch
from index.serving.shard_version import open_shard
from lookalike.shard_query import ShardQuery
from lookalike.v1.index_pb2 import Update, UpdateResult
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32

RECIPES = ("HNSW32,SQ8", "IVF,PQ4fs", "PCAR256,IVF,RaBitQfs", "PCAR256,SymQG32")
SETS = {"noisy": noisy, "cnn": cnn_like}
QUERIES, RECALL_QUERIES = 640, 640
LIMITS = LiveLimits(delta_rows=1 << 15, changes=1_000_000)  # All that is compacted, in one compaction.
IN_DELTA = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--set", choices=tuple(SETS), default="noisy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--compact", action="store_true", help="compact the changes anew")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    use_threads(1)
    threadpool_limits(1, "blas")
    fresh = options.count // 5
    vectors, queries = SETS[options.set](options.count + fresh, max(QUERIES, RECALL_QUERIES))
    rows = {}
    for recipe in options.only:
        folder = options.folder / f"{options.set}-{options.count}" / recipe
        changes = [*generate_updates(options.count, vectors[options.count :])]
        live = open_changed(folder, recipe, vectors[: options.count], changes, compact=options.compact)
        rows[recipe] = measure(states(live), queries, options.rounds)
        print(recipe, rows[recipe], flush=True)
        live.close()
    description = f"{options.count} x {DIM}, {options.set} of benchmarks/dataset.py, k={K}"
    changed = f"{fresh}: half supersede a product, a quarter removes one, a quarter adds one"
    print(
        write(
            f"churn_{options.set}_{options.count}",
            {
                "vectors": description,
                "changes": changed,
                "rows": rows,
                "caveats": "a shared machine: compare ratios; in this process, without gRPC",
            },
        )
    )


def open_changed(folder: Path, recipe: str, vectors: F32, changes: Sequence[Update], *, compact: bool) -> LiveShard:
    """A shard with all changes, the last `IN_DELTA` of them not compacted."""
    if not (folder / "index").exists():
        space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
        products = pa.table({"id": [f"{i:06}" for i in range(len(vectors))]})
        options = IndexOptions(recipe=recipe)
        build(folder / "index", products, {SPACE_IMAGE: space}, shards=1, options=options, threads=2)
    shard = open_shard(folder / "index", 0)
    directory = folder / "live"
    if compact:
        shutil.rmtree(directory, ignore_errors=True)
    is_new = not directory.exists()
    live = LiveShard(shard.base, shard.manifest, 0, directory, LIMITS)
    if is_new:
        _apply(live, changes[:-IN_DELTA])
        live.compact()
        _apply(live, changes[-IN_DELTA:])
    return live


def _apply(live: LiveShard, changes: Sequence[Update]) -> None:
    remaining = iter(changes)
    while part := [*islice(remaining, 64)]:
        if live.free_rows < len(part):
            live.compact()
        if {result.outcome for result in live.apply(part)} != {UpdateResult.APPLIED}:
            raise RuntimeError("a change was not applied")


def states(live: LiveShard) -> Mapping[str, View]:
    base, compacted, _ = live.view.segments
    return {
        "as built": View([type(base)(base.table, base.spaces)]),
        "compacted": View([base, compacted], live.view.joint_indexes),
        f"compacted, and {IN_DELTA} changes in the delta": live.view,
    }


def measure(views: Mapping[str, View], queries: F32, rounds: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: {"recall@10": recall(view, queries[:RECALL_QUERIES])} for name, view in views.items()
    }
    for size in (1, BATCH):
        batches = [*_batches(queries[:QUERIES], size)]
        times_us = np.array([[_cpu_us(view, batches) for view in views.values()] for _ in range(rounds)])
        medians = np.median(times_us, axis=0)
        ratios = np.median(times_us / times_us[:, :1], axis=0)
        for name, median, ratio in zip(views, medians.tolist(), ratios.tolist(), strict=True):
            figures[name][f"cpu_us per query, {size} at a time"] = round(median, 1)
            figures[name][f"ratio, {size} at a time"] = round(ratio, 3)
    return figures


def _cpu_us(view: View, batches: Sequence[Sequence[ShardQuery]]) -> float:
    began_s = time.thread_time()
    for queries in batches:
        search = ShardSearch(view, queries)
        search.read(search.find([*search.pending], UNLIMITED))
    return (time.thread_time() - began_s) / sum(map(len, batches)) * 1e6


def _batches(queries: F32, size: int, *, exact: bool = False) -> Iterator[list[ShardQuery]]:
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        yield [
            ShardQuery(vectors={SPACE_IMAGE: query}, weights=(1.0,), filter=b"", k=K, exact=exact, explain=False)
            for query in part
        ]


def recall(view: View, queries: F32) -> float:
    found, true = [
        [{*hits.ids} for batch in _batches(queries, BATCH, exact=exact) for hits in view.nearest(batch)]
        for exact in (False, True)
    ]
    return round(sum(len(one & other) for one, other in zip(found, true, strict=True)) / (K * len(queries)), 4)


if __name__ == "__main__":
    main()
