"""Measure recipes on a sample of vectors, at two sizes: operating point, recall, memory and time. No I/O.

`index tune` and the recipe `auto` decide by it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from index.backends import cost_model, factory, faiss_support
from index.backends.cost_model import MeasurableRecipe
from index.backends.recipe import SYMQG_MIN_DIM, NgtRecipe, parse_recipe, resolve_recipe
from index.backends.vector_index import VectorIndex
from index.building.calibration import CalibrationSet, best_scores
from index.building.tune_selection import RecipeMeasurement, TuneBudget, extrapolate_recall
from index.storage.vectors import PAGE_BYTES, StoredVectors
from lookalike.releases.manifest import OperatingPoint
from lookalike.vectors import F32

QUERIES = 512  # The standard error of a recall@10 of 0.95 is half a percent.
_TIMING_ROUNDS = 3  # The median is reported.
_MAX_ATTEMPTS = 3  # To find an operating point whose extrapolated recall reaches the target.


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Unit vectors in random order, and queries (n, dim) of the same distribution that are not among them."""

    vectors: StoredVectors
    queries: F32

    @classmethod
    def split(cls, vectors: StoredVectors) -> Sample:
        """The last of these vectors, in random order, become the queries."""
        count = len(vectors) - min(QUERIES, len(vectors) // 8)
        return cls(vectors=vectors[:count], queries=faiss_support.as_float32(vectors[count:]))

    def half(self) -> Sample:
        """Half of the vectors with the same queries, so that a difference in recall is no sampling noise."""
        return replace(self, vectors=self.vectors[: len(self.vectors) // 2])


def candidate_recipes(dim: int) -> Sequence[str]:
    """The recipes worth trying, whose libraries are installed.

    Exact search is not among them: it takes no memory, but far too much time.
    """
    names = (*fast_recipes(dim), *compact_recipes(dim))
    return tuple(name for name in names if (recipe := parse_recipe(name)) and factory.is_installed(recipe))


def fast_recipes(dim: int) -> Sequence[str]:
    """Those of which one is the fastest where memory is no constraint."""
    return (
        *(f"PCAR{rotated_dim},IVF,RaBitQfs" for rotated_dim in (256,) if rotated_dim < dim),
        "IVF,PQ4fs",
        "IVF,SQ8",
        "HNSW32,SQ8",
        *(f"PCAR{rotated_dim},HNSW24,SQ8" for rotated_dim in (256,) if rotated_dim < dim),
        *(_symqg_recipes(dim) if dim >= SYMQG_MIN_DIM else ()),
    )


def _symqg_recipes(dim: int) -> Sequence[str]:
    return [*(f"PCAR{rotated_dim},SymQG32" for rotated_dim in (256, 384) if rotated_dim < dim), "SymQG32"]


def compact_recipes(dim: int) -> Sequence[str]:
    """Those that are slower, but take less memory."""
    return (
        *(
            f"OPQ{codes}_{rotated_dim},IVF,PQ{codes}x4fs"
            for codes, rotated_dim in ((16, 64), (32, 128), (64, 256))
            if rotated_dim < dim
        ),
        *(f"PCAR{rotated_dim},IVF,RaBitQ" for rotated_dim in (96, 128, 256) if rotated_dim < dim),
        *(f"PCAR{rotated_dim},IVF,SQ4" for rotated_dim in (64, 128) if rotated_dim < dim),
        "IVF,RaBitQ",
    )


def bytes_per_vector(name: str, documents: int, dim: int) -> float:
    """Memory by formula."""
    return cost_model.ram_bytes(_resolve(name, documents, dim), documents, dim) / documents


def measure_recipe(name: str, sample: Sample, budget: TuneBudget, *, seed: int, threads: int) -> RecipeMeasurement:
    """Measure a recipe on the sample and on half of it."""
    documents, dim = sample.vectors.shape
    recipe, full_recipe = _resolve(name, documents, dim), _resolve(name, budget.documents, dim)
    start_s = time.process_time()
    index = factory.train_index(recipe, sample.vectors, seed, threads)
    training_s = time.process_time() - start_s
    half = sample.half()
    half_index = factory.train_index(_resolve(name, len(half.vectors), dim), half.vectors, seed, threads)
    faiss_support.use_threads(1)
    full_set = _calibration_set(index, sample, budget.k)
    half_set = _calibration_set(half_index, half, budget.k)
    point, recall_half, recall = _find_operating_point(index, full_set, half_set, budget)
    rescored = budget.k * point.refine_factor
    sample_cost = cost_model.search_cost(recipe, documents, dim, point.search_parameter) + rescored
    full_cost = cost_model.search_cost(full_recipe, budget.documents, dim, point.search_parameter) + rescored
    cpu_ms = _measure_cpu_ms(full_set, point)
    return RecipeMeasurement(
        recipe=name,
        resolved_recipe=str(full_recipe),
        ram_bytes=bytes_per_vector(name, budget.documents, dim),
        formula_error=cost_model.ram_bytes(recipe, documents, dim) / index.ram_bytes() - 1,
        search_parameter=point.search_parameter,
        refine_factor=point.refine_factor,
        recall_half=recall_half,
        recall_sample=point.recall,
        recall=recall,
        cpu_ms_sample=cpu_ms,
        cpu_ms=cpu_ms * full_cost / sample_cost,
        pages=_pages_per_query(index, full_set, point),
        training_s=training_s,
    )


def _calibration_set(index: VectorIndex, sample: Sample, k: int) -> CalibrationSet:
    kth_best_scores = best_scores(sample.queries, sample.vectors, k, faiss_support.NONE)[:, -1]
    return CalibrationSet(index, sample.vectors, k, sample.queries, kth_best_scores)


def _resolve(name: str, documents: int, dim: int) -> MeasurableRecipe:
    recipe = resolve_recipe(name, documents, dim, 0)
    assert recipe is not None, name  # noqa: S101  # exact search is no candidate
    assert not isinstance(recipe, NgtRecipe), name  # noqa: S101  # nor is NGT
    return recipe


def _find_operating_point(
    index: VectorIndex, full_set: CalibrationSet, half_set: CalibrationSet, budget: TuneBudget
) -> tuple[OperatingPoint, float, float]:
    """Find the cheapest operating point whose extrapolated recall reaches the target.

    Returns the point, its recall on half the sample, and its extrapolated recall. If none reaches it: the costliest.
    """
    doublings = log2(budget.documents / len(full_set.space))
    target = budget.recall
    for _ in range(_MAX_ATTEMPTS):
        point = full_set.find_cheapest(target)
        if point is None:
            break
        half, recall = _extrapolate(point, half_set, doublings)
        if recall >= budget.recall:
            return point, half, recall
        target = min(1.0, point.recall + budget.recall - recall)
    costliest = full_set.measure(max(index.search_parameters(budget.k)), max(index.refine_factors))
    return costliest, *_extrapolate(costliest, half_set, doublings)


def _extrapolate(point: OperatingPoint, half_set: CalibrationSet, doublings: float) -> tuple[float, float]:
    half = half_set.measure(point.search_parameter, point.refine_factor).recall
    return half, extrapolate_recall(half, point.recall, doublings)


def _measure_cpu_ms(full_set: CalibrationSet, point: OperatingPoint) -> float:
    """Median CPU time per query, one query at a time, as most arrive."""
    rounds = []
    for _ in range(_TIMING_ROUNDS):
        start_s = time.thread_time()
        for query in full_set.queries:
            full_set.space.probe(query[None, :], full_set.depth, point)
        rounds.append((time.thread_time() - start_s) * 1e3 / len(full_set.queries))
    return float(np.median(rounds))


def _pages_per_query(index: VectorIndex, full_set: CalibrationSet, point: OperatingPoint) -> float:
    """Mean number of distinct file pages that the rescored vectors lie in; the first vector begins on a page."""
    size = full_set.space.vectors.itemsize * full_set.space.dim
    counts = []
    for query in full_set.queries:
        rows = index.find_candidates(query[None, :], full_set.depth * point.refine_factor, point.search_parameter)[0]
        first, last = rows[rows >= 0] * size // PAGE_BYTES, ((rows[rows >= 0] + 1) * size - 1) // PAGE_BYTES
        counts.append(len(np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))))
    return float(np.mean(counts))
