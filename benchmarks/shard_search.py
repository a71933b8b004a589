"""A shard's search in its process against bare faiss: the same codes, the same work, the same rescoring; CPU per query.

Ours is `SpaceIndex.search`; bare faiss is its IndexRefine over the same codes and all full vectors in memory. In turn,
`--rounds` times, on one thread each; medians. What the codes take in memory is told beside it.

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

from benchmarks.dataset import DIM, cnn_like
from benchmarks.meter import write
from index.building.ladder import Exam
from index.kinds import choice, engine
from index.kinds.engine import faiss
from index.kinds.recipe import resolved
from index.kinds.seam import Codes
from index.search.space import SpaceIndex
from index.storage.manifest import IndexEntry, Rung
from index.storage.vectors import PAGE
from lookalike.vectors import F32, I64

K = 10
BATCHES = (1, 16)
# The default, and what `lookalike index tune` names for 48 and 80 bytes of memory a vector.
RECIPES = (("IVF,PQ4fs", 0.95), ("PCAR128,IVF,RaBitQ", 0.9), ("PCAR64,IVF,SQ4", 0.95), ("OPQ32_128,IVF,PQ32x4fs", 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    vectors, queries = cnn_like(options.count, options.queries)
    truth = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    flat = faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        rows = {}
        for name, target in RECIPES:
            path = Path(folder) / "codes"
            made = resolved(name, len(vectors), DIM, 0)
            assert made is not None  # noqa: S101  # none of them is Flat
            rung = _written(path, made, vectors, target)
            codes = choice.read(path, made, DIM)
            given = {"vectors": vectors, "queries": queries, "flat": flat, "truth": truth}
            row = _compared(path, codes, rung, rounds=options.rounds, **given)
            rows[str(made)] = {"ram_bytes_per_vector": round(codes.ram_bytes() / len(vectors), 1), **row}
    caveats = "full vectors are in memory for both: on a cold disk each page is a read more"
    print(
        write(
            "shard_search",
            {"vectors": f"{options.count} x {DIM}, like those of a CNN, k={K}", "rows": rows, "caveats": caveats},
        )
    )


def _written(path: Path, recipe: Any, vectors: F32, target: float) -> Rung:
    """Codes on disk, and the least work that reaches the target."""
    codes = choice.trained(recipe, vectors, 0, 2)
    engine.use_threads(1)
    asked = np.sort(np.random.default_rng(0).choice(len(vectors), 256, replace=False))
    rung = Exam(codes, vectors, K, asked).least(target)
    if rung is None:
        raise RuntimeError(f"{recipe} does not reach {target}")
    codes.write(path)
    return rung


def _compared(
    path: Path, codes: Codes, rung: Rung, *, vectors: F32, queries: F32, flat: Any, truth: I64, rounds: int
) -> dict[str, Any]:
    entry = IndexEntry(recipe="measured", ladder=(rung,))
    space = SpaceIndex(entry=entry, vectors=vectors, rows=np.arange(len(vectors)), codes=codes)
    base = faiss.read_index(str(path))
    faiss.extract_index_ivf(base).nprobe = rung.effort
    refined = faiss.IndexRefine(base, flat)
    refined.k_factor = rung.factor
    ways: dict[str, Callable[[F32], list[I64]]] = {
        "ours": lambda part: [found.rows for found in space.search(part, K)],
        "faiss": lambda part: list(refined.search(part, K)[1]),
    }
    took: dict[tuple[str, int], list[float]] = {}
    recalls: dict[str, float] = {}
    for _ in range(rounds):
        for batch in BATCHES:
            for name, search in ways.items():
                found: list[I64] = []
                began_s = time.thread_time()
                for start in range(0, len(queries), batch):
                    found += search(queries[start : start + batch])
                took.setdefault((name, batch), []).append((time.thread_time() - began_s) / len(queries) * 1e6)
                recalls[name] = float(
                    np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, truth, strict=True)])
                )
    cpu_us = {key: float(np.median(each)) for key, each in took.items()}
    return {
        "effort": rung.effort,
        "factor": rung.factor,
        "recall_at_10": {name: round(recall, 4) for name, recall in recalls.items()},
        "cpu_us_per_query": {f"{name}, batch {batch}": round(value, 1) for (name, batch), value in cpu_us.items()},
        "of_faiss": {f"batch {batch}": round(cpu_us["ours", batch] / cpu_us["faiss", batch], 3) for batch in BATCHES},
        "pages_per_query": K * rung.factor * -(-4 * DIM // PAGE),
    }


if __name__ == "__main__":
    main()
