"""Choose the recipe that fits a budget from measurements of several. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TuneBudget:
    """What the index may take, and the recall that it must reach."""

    documents: int  # Vectors in each shard of the index to be built.
    k: int
    recall: float  # recall@k.
    bytes_per_vector: float  # In memory.
    latency_ms: float | None = None  # Of one core, for one query; None: any.


@dataclass(frozen=True, kw_only=True)
class RecipeMeasurement:
    """A recipe at the cheapest operating point that reaches the recall; where none does, at the costliest tried."""

    recipe: str  # The factory string for `index build`.
    resolved_recipe: str  # With the parameters that follow from the full count.
    ram_bytes: float  # Per vector at the full count, by formula.
    formula_error: float  # Relative error of the formula for the sample's index.
    search_parameter: int
    refine_factor: int
    recall_half: float  # At the same operating point, with half of the sample.
    recall_sample: float
    recall: float  # Extrapolated to the full count.
    cpu_ms_sample: float  # Of one core, for one query; full vectors are in memory.
    cpu_ms: float  # Extrapolated to the full count.
    pages: float  # Of the file of full vectors that one query reads.
    training_s: float  # Of one core, for the sample.


def extrapolate_recall(half: float, sample: float, doublings: float) -> float:
    """Recall after further doublings of the sample: each loses what the last one lost; a gain counts as no loss."""
    return max(0.0, sample - max(0.0, half - sample) * doublings)


def budget_excesses(measured: RecipeMeasurement, budget: TuneBudget) -> dict[str, float]:
    """The relative excess over each limit, by the limit's name; empty: the recipe meets the budget."""
    miss_ratio = (1 - measured.recall) / max(1 - budget.recall, 1e-3)
    excesses = {"bytes": measured.ram_bytes / budget.bytes_per_vector - 1, "recall": miss_ratio - 1}
    if budget.latency_ms is not None:
        excesses["latency"] = measured.cpu_ms / budget.latency_ms - 1
    return {name: excess for name, excess in excesses.items() if excess > 0}


def fastest_within(
    rows: Iterable[RecipeMeasurement], budget: TuneBudget, *, near_tie: float = 1.0
) -> RecipeMeasurement | None:
    """The fastest recipe that meets the budget; of those that take up to `near_tie` times its CPU, the smallest."""
    fitting = [row for row in rows if not budget_excesses(row, budget)]
    least_ms = min((row.cpu_ms for row in fitting), default=0.0)
    nearly_as_fast = (row for row in fitting if row.cpu_ms <= near_tie * least_ms)
    return min(nearly_as_fast, key=lambda row: (row.ram_bytes, row.cpu_ms), default=None)


def nearest_to(rows: Iterable[RecipeMeasurement], budget: TuneBudget) -> RecipeMeasurement:
    """The recipe with the smallest sum of excesses."""
    return min(rows, key=lambda row: (sum(budget_excesses(row, budget).values()), row.ram_bytes))


def pareto_front(rows: Iterable[RecipeMeasurement], recall: float) -> Sequence[RecipeMeasurement]:
    """The Pareto front of those that reach the recall: each is faster than all that take less memory; by memory."""
    frontier: list[RecipeMeasurement] = []
    for row in sorted((row for row in rows if row.recall >= recall), key=lambda row: (row.ram_bytes, row.cpu_ms)):
        if not frontier or row.cpu_ms < frontier[-1].cpu_ms:
            frontier.append(row)
    return frontier
