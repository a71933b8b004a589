"""The recipe `auto`: the fastest on a sample of a space's own vectors, within a budget of memory. No I/O.

Times are never the same twice. So a recipe is chosen only by a clear win, the choice is recorded in the manifest, and
the next build keeps it while it asks for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from index.building.tune_selection import RecipeMeasurement, TuneBudget, fastest_within, nearest_to
from index.building.tune_trial import (
    QUERIES,
    Sample,
    bytes_per_vector,
    candidate_recipes,
    fast_recipes,
    measure_recipe,
)
from index.storage.vectors import StoredVectors
from lookalike.errors import BadSettings
from lookalike.releases.manifest import RecipeChoice, RecipeFigures

MIN_DOCUMENTS = 1 << 13  # Fewer are the default recipe's: nothing is slow among so few.
SAMPLE = 16_384  # Vectors, beside the queries: enough to tell recipes apart, few enough to build each of them twice.
K = 10
# A recipe that takes more memory must be faster by more than this factor: times vary from run to run.
CLEAR_WIN = 1.2
MAX_GROWTH = 2  # A choice is measured anew when a shard has grown or shrunk by more.
_BUDGET_RECIPE = "HNSW32,SQ8"


def default_bytes_per_vector(dim: int) -> int:
    """The budget: what a common index of the field takes, HNSW with 32 links over bytes."""
    return ceil(bytes_per_vector(_BUDGET_RECIPE, MIN_DOCUMENTS, dim))


def choose_recipe(
    vectors: StoredVectors,
    budget: TuneBudget,
    *,
    previous: RecipeChoice | None,
    seed: int,
    threads: int,
    progress: Callable[[str], None],
) -> RecipeChoice:
    """The recipe for a shard's unit vectors: the previous choice while it holds, or a new one, by measurement.

    Raises BadSettings if no candidate fits into the memory.
    """
    names = fitting_candidates(budget, vectors.shape[1])
    if previous is not None and _holds(previous, budget, names):
        return previous
    sample, rows = _draw(vectors, seed), []
    for name in names:
        progress(f"measuring {name} on {len(sample.vectors)} vectors")
        rows.append(measure_recipe(name, sample, budget, seed=seed, threads=threads))
    chosen = fastest_within(rows, budget, near_tie=CLEAR_WIN)
    best = chosen or nearest_to(rows, budget)
    return RecipeChoice(
        recipe=best.recipe,
        reason=_reason(chosen, rows, budget),
        documents=budget.documents,
        sample=len(sample.vectors),
        bytes_per_vector=budget.bytes_per_vector,
        target_recall=budget.recall,
        candidates=tuple(names),
        figures=tuple(_figures(row) for row in sorted(rows, key=lambda row: row.cpu_ms)),
    )


def describe(choice: RecipeChoice) -> Sequence[str]:
    """The choice, its reason and the figures measured, as lines of text."""
    return (
        f"auto: {choice.recipe}, {choice.reason}; at most {choice.bytes_per_vector:g} B per vector in memory,",
        f"  measured on {choice.sample:,} vectors, extrapolated to {choice.documents:,} in a shard:",
        *(
            f"  {row.recipe:<20} {row.cpu_ms_sample:.3f} → {row.cpu_ms:.3f} ms of CPU per query, "
            f"{row.bytes_per_vector:,.0f} B per vector, recall@{K} {row.recall:.3f}"
            for row in choice.figures
        ),
    )


def fitting_candidates(budget: TuneBudget, dim: int) -> Sequence[str]:
    """The fast recipes that fit into the memory; if none does, all that do. Raises BadSettings if no recipe fits."""
    sizes = {name: bytes_per_vector(name, budget.documents, dim) for name in candidate_recipes(dim)}
    fitting = [name for name, size in sizes.items() if size <= budget.bytes_per_vector]
    if not fitting:
        smallest = min(sizes, key=lambda name: sizes[name])
        raise BadSettings(
            f"recipe auto: no index takes at most {budget.bytes_per_vector:g} B per vector in memory: the smallest, "
            f"{smallest}, takes {sizes[smallest]:.1f}; exact search, the recipe Flat, takes none"
        )
    return [name for name in fitting if name in fast_recipes(dim)] or fitting


def _holds(previous: RecipeChoice, budget: TuneBudget, names: Sequence[str]) -> bool:
    """Whether it was made for the same budget, recall and candidates, and for about as many vectors."""
    same = (previous.bytes_per_vector, previous.target_recall, previous.candidates)
    smaller, larger = sorted((previous.documents, budget.documents))
    return same == (budget.bytes_per_vector, budget.recall, tuple(names)) and larger <= MAX_GROWTH * smaller


def _draw(vectors: StoredVectors, seed: int) -> Sample:
    random = np.random.default_rng(seed)
    positions = np.sort(random.choice(len(vectors), min(SAMPLE + QUERIES, len(vectors)), replace=False))
    return Sample.split(vectors[positions][random.permutation(len(positions))])


def _reason(chosen: RecipeMeasurement | None, rows: Sequence[RecipeMeasurement], budget: TuneBudget) -> str:
    if chosen is None:
        return f"the nearest to a recall@{K} of {budget.recall:g}, which none reached"
    fastest = fastest_within(rows, budget)
    if fastest is None or fastest is chosen:
        return f"the fastest at a recall@{K} of {budget.recall:g}"
    return (
        f"the smallest of those nearly as fast as {fastest.recipe} (up to {CLEAR_WIN:g} times its CPU) at a recall@{K} "
        f"of {budget.recall:g}"
    )


def _figures(row: RecipeMeasurement) -> RecipeFigures:
    return RecipeFigures(
        recipe=row.recipe,
        bytes_per_vector=round(row.ram_bytes, 1),
        recall=round(row.recall, 4),
        cpu_ms_sample=round(row.cpu_ms_sample, 4),
        cpu_ms=round(row.cpu_ms, 4),
    )
