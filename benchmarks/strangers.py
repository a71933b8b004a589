"""Which queries tell of a built index how well it finds the neighbours of vectors that it does not hold?

An index is built of a set without 2,000 of its vectors, as `index build` builds it. What its operating point for ten
neighbours finds of these strangers is held against what the build stated, and against what stands in for strangers
where only the built version is at hand:

hidden      vectors of the index, which is searched as if it did not hold them (`VectorIndex.without`)
own         vectors of the index, without themselves among the neighbours
midpoints   of a vector and its nearest
displaced   a vector moved by the difference of two of its ten nearest: v + a - b

    python -m benchmarks.strangers [--count 40000] [--vectors NAME FILE.npy …]
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.dataset import cnn_like, noisy
from benchmarks.meter import RESULTS, measurement_context, write
from index.backends import factory
from index.backends.recipe import resolve_recipe
from index.building.calibration import CalibrationSet, best_scores, calibrate, draw_queries
from index.search.space import SpaceIndex
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.vectors import F32, I64, normalised

RECIPES = ("HNSW32,SQ8", "IVF,PQ4fs", "PCAR256,IVF,RaBitQfs", "PCAR256,SymQG32")
STRANGERS, QUERIES, DEPTH = 2_000, 1_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40_000, help="vectors of the drawn sets")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--sets", nargs="*", default=["cnn-like", "noisy"], help="drawn sets")
    parser.add_argument(
        "--vectors", nargs=2, action="append", default=[], metavar=("NAME", "FILE"), help="a set of one's own: .npy"
    )
    options = parser.parse_args()
    path = RESULTS / "strangers.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for name, vectors in _sets(options):
        for recipe in options.recipes:
            results[f"{name} {recipe}"] = _measure(vectors, recipe)
            results |= measurement_context()
            print(name, recipe, json.dumps(results[f"{name} {recipe}"]), write("strangers", results), flush=True)


def _sets(options: argparse.Namespace) -> Iterator[tuple[str, F32]]:
    for name, draw in (("cnn-like", cnn_like), ("noisy", noisy)):
        if name in options.sets:
            drawn = np.concatenate(draw(options.count - STRANGERS, STRANGERS))
            yield f"{name} {len(drawn)} x {drawn.shape[1]}", drawn
    for name, file in options.vectors:
        stored = np.load(file, mmap_mode="r").astype(np.float32)
        vectors = np.unique(normalised(stored), axis=0)  # Equal ones are no strangers to each other.
        yield f"{name} {len(vectors)} x {vectors.shape[1]}", vectors


def _measure(vectors: F32, recipe: str) -> dict[str, Any]:
    order = np.random.default_rng(zlib.crc32(recipe.encode())).permutation(len(vectors))
    strangers, held = vectors[order[:STRANGERS]], np.ascontiguousarray(vectors[order[STRANGERS:]])
    resolved = resolve_recipe(recipe, len(held), held.shape[1], 0)
    if resolved is None:
        return {"exact": True}
    calibration = draw_queries(len(held), 0)
    index = factory.train_index(resolved, held, 0, 2, held_out=calibration)
    points = calibrate(index, held, calibration, depths=(DEPTH,))
    if not points:
        return {"recipe": str(resolved), "out of reach": True}
    point = points[0]
    space = SpaceIndex(entry=IndexEntry(), vectors=held, rows=np.arange(len(held)), ann_index=index)
    rows = np.random.default_rng(7).choice(np.setdiff1d(np.arange(len(held)), calibration), QUERIES, replace=False)
    with index.without(rows, held) as (remaining, others):
        best = best_scores(held[rows], held, DEPTH, rows)[:, -1]
        measured = CalibrationSet(remaining, others, DEPTH, held[rows], best).measure(
            point.search_parameter, point.refine_factor
        )
        hidden = {"recall": measured.recall, "standard_error": measured.standard_error}
    near = np.stack([found.rows for found in space.search(held[rows], DEPTH + 1, exact=True)])
    other = np.random.default_rng(8).permuted(near[:, 1:], axis=1)
    mid = normalised(held[rows] + held[near[:, 1]])
    displaced = normalised(held[rows] + held[other[:, 0]] - held[other[:, 1]])
    return {
        "recipe": str(resolved),
        "search_parameter": point.search_parameter,
        "refine_factor": point.refine_factor,
        "stated": {"recall": point.recall, "standard_error": point.standard_error},
        "strangers": _recall(space, point, strangers, None),
        "hidden": hidden,
        "own": _recall(space, point, held[rows], rows),
        "midpoints": _recall(space, point, mid, None),
        "displaced": _recall(space, point, displaced, None),
    }


def _recall(space: SpaceIndex, point: OperatingPoint, queries: F32, own: I64 | None) -> dict[str, float]:
    """recall@10 at an operating point. own (n,): rows that do not count; None: all count."""
    depth = DEPTH + (own is not None)
    truth = space.search(queries, depth, exact=True)
    recalls = []
    for start in range(0, len(queries), 16):
        found = space.probe(queries[start : start + 16], depth, point)
        for i, neighbours in enumerate(found, start):
            kth = truth[i].scores[-1] - 1e-6
            good = neighbours.scores >= kth
            if own is not None:
                good &= neighbours.rows != own[i]
            recalls.append(min(int(good.sum()), DEPTH) / DEPTH)
    values = np.array(recalls)
    return {
        "recall": round(float(values.mean()), 4),
        "standard_error": round(float(values.std() / len(values) ** 0.5), 4),
    }


if __name__ == "__main__":
    main()
