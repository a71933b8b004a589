"""Gate: does each index find what its build stated? recall@10 by vectors that it is made not to hold. Reads vectors.

The queries are drawn anew, so that what is stated by one sample is held against another. While they are queries the
index does not hold them (`VectorIndex.without`), as in a calibration. Of what stands in for strangers where only the
built release is at hand, such vectors come closest (benchmarks/strangers.py). Backends that would have to be built anew
for that are searched by vectors that they hold, without themselves among the neighbours, which is easier by up to .02.
"""

from __future__ import annotations

from dataclasses import replace
from math import hypot

import numpy as np

from index.backends.faiss_support import as_float32
from index.backends.recipe import NgtRecipe, SymqgRecipe, parse_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import CalibrationSet, best_scores, draw_queries
from index.search.space import SpaceIndex
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import OperatingPoint
from lookalike.vectors import F32, I64
from pipeline.gate.limits import GateLimits
from pipeline.gate.report import Check, judged, not_compared
from pipeline.mapped_release import MappedRelease

NAME = "recall"
_MIN_QUERIES = 64  # However large an index is.
_CANNOT_HIDE = (SymqgRecipe, NgtRecipe)  # `without` builds another index: 94 s for 100,000 vectors.
_MAX_SHARE = 8  # Of an index's vectors; more would leave another index.


def check_recall(release: MappedRelease, limits: GateLimits, seed: int) -> Check:
    """Of every shard and space that is not searched exactly."""
    indexes = [
        (shard, space.name, release.index(shard, space.name))
        for space in release.manifest.spaces
        for shard in range(release.manifest.shards)
        if space.indexes[shard].operating_points
    ]
    if not indexes:
        return not_compared(NAME, "every space is searched exactly")
    refusals, figures = [], dict[str, dict[str, float]]()
    for shard, name, index in indexes:
        stated = index.entry.operating_points[0]
        queries = min(limits.recall_queries, limits.recall_comparisons // (len(indexes) * len(index)))
        measured = measure_recall(index, release.manifest.seed, max(_MIN_QUERIES, queries), seed)
        standard_error = hypot(stated.standard_error, measured.standard_error)
        figures[f"{name} of shard {shard}"] = {
            "stated": stated.recall,
            "measured": measured.recall,
            "standard_error": standard_error,
        }
        shortfall = stated.recall - measured.recall
        if shortfall > limits.max_recall_shortfall + limits.standard_errors * standard_error:
            refusals.append(
                f"{name} of shard {shard}: recall@{stated.depth} {measured.recall:.3f} for queries that the index does "
                f"not hold, stated {stated.recall:.3f}: a shortfall of {shortfall:.3f}, more than "
                f"{limits.max_recall_shortfall} and chance (± {standard_error:.3f})"
            )
    worst = min(figures, key=lambda name: figures[name]["measured"] - figures[name]["stated"])
    summary = (
        f"recall@10 for queries that the index does not hold is as stated in {len(figures)} indexes; the largest "
        f"difference: {worst}, {figures[worst]['measured']:.3f}, stated {figures[worst]['stated']:.3f} "
        f"(± {figures[worst]['standard_error']:.3f})"
    )
    return judged(NAME, refusals, summary, figures)


def measure_recall(index: SpaceIndex, build_seed: int, queries: int, seed: int) -> OperatingPoint:
    """The first operating point of an index, with its recall as it is now.

    build_seed: of the build, whose own queries are left out. Raises AssertionError for an index without such a point.
    """
    point, ann_index = index.entry.operating_points[0], index.ann_index
    assert ann_index is not None, "no operating points without an ANN index"  # noqa: S101  # for the type checker
    stated_by = draw_queries(len(index), build_seed)
    others = np.setdiff1d(np.arange(len(index)), stated_by, assume_unique=True)
    random = np.random.default_rng(seed)
    positions = np.sort(random.choice(others, min(queries, len(others) // _MAX_SHARE), replace=False))
    vectors = as_float32(index.vectors[positions])
    if isinstance(parse_recipe(index.entry.recipe), _CANNOT_HIDE):
        return _measure_held(point, ann_index, index.vectors, vectors)
    with ann_index.without(positions, index.vectors) as (remaining_index, remaining_vectors):
        return _measure(point, remaining_index, remaining_vectors, vectors, positions)


def _measure(
    point: OperatingPoint, index: VectorIndex, vectors: StoredVectors, queries: F32, left_out: I64
) -> OperatingPoint:
    best = best_scores(queries, vectors, point.depth, left_out)[:, -1]
    measured = CalibrationSet(index, vectors, point.depth, queries, best)
    return measured.measure(point.search_parameter, point.refine_factor)


def _measure_held(point: OperatingPoint, index: VectorIndex, vectors: StoredVectors, queries: F32) -> OperatingPoint:
    """Of vectors that the index holds: each is found as its own nearest, and does not count."""
    depth = point.depth
    measured = _measure(replace(point, depth=depth + 1), index, vectors, queries, np.empty(0, dtype=np.int64))
    return replace(
        measured,
        depth=depth,
        recall=(measured.recall * (depth + 1) - 1) / depth,
        standard_error=measured.standard_error * (depth + 1) / depth,
    )
