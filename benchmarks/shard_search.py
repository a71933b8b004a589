"""CPU per query of a shard's search, in this process, against bare faiss with the same index and rescoring.

`index` is `SpaceIndex.search`. `shard` is all the work of a shard's thread for a request: check, search, read the
products of the hits, serialize the response. `faiss` is IndexRefine over the same index, with all full vectors in
memory. They run in turn, on one thread each, `--rounds` times; results are medians, beside the index's memory.

    python -m benchmarks.shard_search [--count 100000] [--queries 1000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import write
from index.backends import factory, faiss_support, ivf
from index.backends.faiss_support import faiss
from index.backends.ivf import IvfIndex
from index.backends.recipe import IvfRecipe, resolve_recipe
from index.building.calibration import CalibrationSet, best_scores
from index.search.segment import Segment
from index.search.space import SpaceIndex
from index.serving.shard_version import ShardVersion
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.vectors import PAGE_BYTES
from lookalike.releases.manifest import IndexEntry, Manifest, OperatingPoint
from lookalike.v1.index_pb2 import QueryVector, ShardQuery, ShardSearchRequest, ShardSearchResponse
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64, pack

K = 10
BATCHES = (1, 16)
CHOOSING = 512  # Queries that choose an operating point; others measure its recall.
# The default, and what `lookalike index tune` names for 48 and 80 bytes of memory a vector.
RECIPES = (("IVF,PQ4fs", 0.95), ("PCAR128,IVF,RaBitQ", 0.9), ("PCAR64,IVF,SQ4", 0.95), ("OPQ32_128,IVF,PQ32x4fs", 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    vectors, queries = cnn_like(options.count, options.queries + CHOOSING)
    choosing, queries = queries[:CHOOSING], queries[CHOOSING:]
    truth = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    flat = faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        table = _table(Path(folder) / "products", len(vectors))
        rows = {}
        for name, target in RECIPES:
            recipe = resolve_recipe(name, len(vectors), DIM, 0)
            assert isinstance(recipe, IvfRecipe)  # noqa: S101  # all of them are
            path = Path(folder) / name
            point = _build_index(path, recipe, vectors, choosing, target)
            ann_index = ivf.read_index(path, recipe)
            inputs = {"vectors": vectors, "table": table, "queries": queries, "flat": flat, "truth": truth}
            row = _compare(ann_index, point, rounds=options.rounds, **inputs)
            rows[str(recipe)] = {"ram_bytes_per_vector": round(ann_index.ram_bytes() / len(vectors), 1), **row}
    caveats = (
        "full vectors are in memory for all: if they are not cached, each page is a disk read more; "
        "the shard is without gRPC and updates; "
        "times change with the machine's other work, which all three share: compare their ratios"
    )
    print(
        write(
            "shard_search",
            {"vectors": f"{options.count} x {DIM}, like those of a CNN, k={K}", "rows": rows, "caveats": caveats},
        )
    )


def _build_index(path: Path, recipe: Any, vectors: F32, queries: F32, target: float) -> OperatingPoint:
    """Build an index on disk; returns the cheapest operating point that reaches the target recall."""
    ann_index = factory.train_index(recipe, vectors, 0, 2)
    faiss_support.use_threads(1)
    kth_best_scores = best_scores(queries, vectors, K, faiss_support.NONE)[:, -1]
    point = CalibrationSet(ann_index, vectors, K, queries, kth_best_scores).find_cheapest(target)
    if point is None:
        raise RuntimeError(f"{recipe} does not reach {target}")
    ann_index.write(path)
    return point


def _table(path: Path, count: int) -> Attributes:
    """Products of some 160 bytes, mapped."""
    rows = range(count)
    products = {
        "id": [f"p{row:08}" for row in rows],
        "title": [f"Low-top sneaker of soft leather, model {row}" for row in rows],
        "category": ["fashion/shoes/sneakers"] * count,
        "shop": [f"shop {row % 1000}" for row in rows],
        "price": [float(row % 20_000) for row in rows],
        "currency": ["JPY"] * count,
        "url": [f"https://shop.example/products/{row}" for row in rows],
    }
    attributes.write_products(path, attributes.validate_products(pa.table(products)))
    return attributes.open_attributes(path)


def _compare(
    ann_index: IvfIndex,
    point: OperatingPoint,
    *,
    vectors: F32,
    table: Attributes,
    queries: F32,
    flat: Any,
    truth: I64,
    rounds: int,
) -> dict[str, Any]:
    entry = IndexEntry(recipe="measured", operating_points=(point,))
    space = SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(len(vectors)), ann_index=ann_index)
    manifest = Manifest(version="measured", shards=1, seed=0, products=(len(table),), spaces=(), files={})
    shard = ShardVersion(manifest=manifest, shard=0, base=Segment(table, {Space.SPACE_IMAGE: space}))
    base = ann_index.lists.copy_with_ids()
    faiss.extract_index_ivf(base).nprobe = point.search_parameter
    refined = faiss.IndexRefine(base, flat)
    refined.k_factor = point.refine_factor
    searches: dict[str, Callable[[F32, ShardSearchRequest], Any]] = {
        "index": lambda part, _: [found.rows for found in space.search(part, K)],
        "shard": lambda _, request: shard.search(request.queries).SerializeToString(),
        "faiss": lambda part, _: refined.search(part, K)[1],
    }
    took: dict[tuple[str, int], list[float]] = {}
    recalls: dict[str, float] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
            requests = [(part, _request(part)) for part in parts]
            for name, search in searches.items():
                began_s = time.thread_time()
                answers = [search(*request) for request in requests]
                took.setdefault((name, batch), []).append((time.thread_time() - began_s) / len(queries) * 1e6)
                found = [rows for answer in answers for rows in _rows_of(answer)]
                recalls[name] = float(
                    np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, truth, strict=True)])
                )
    cpu_us = {key: float(np.median(each)) for key, each in took.items()}
    return {
        "search_parameter": point.search_parameter,
        "refine_factor": point.refine_factor,
        "recall_at_10": {name: round(recall, 4) for name, recall in recalls.items()},
        "cpu_us_per_query": {f"{name}, batch {batch}": round(value, 1) for (name, batch), value in cpu_us.items()},
        "of_faiss": {
            f"{name}, batch {batch}": round(cpu_us[name, batch] / cpu_us["faiss", batch], 3)
            for name in ("index", "shard")
            for batch in BATCHES
        },
        "pages_per_query": K * point.refine_factor * -(-4 * DIM // PAGE_BYTES),
    }


def _request(queries: F32) -> ShardSearchRequest:
    """As a gateway sends it."""
    vectors = [QueryVector(space=Space.SPACE_IMAGE, vector=pack(query)) for query in queries]
    return ShardSearchRequest(queries=[ShardQuery(vectors=[vector], k=K) for vector in vectors])


def _rows_of(answer: Any) -> list[I64]:
    if not isinstance(answer, bytes):
        return list(answer)
    response = ShardSearchResponse.FromString(answer)
    return [np.array([int(product_id[1:]) for product_id in hits.ids]) for hits in response.results]


if __name__ == "__main__":
    main()
