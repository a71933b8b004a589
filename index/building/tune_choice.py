"""What a budget is, what was measured of a recipe, and which recipe is chosen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    documents: int  # Vectors in each shard of the index to be built.
    k: int
    recall: float  # Of the k nearest.
    bytes_per_vector: float  # In memory.
    latency_ms: float | None = None  # Of one core, for one query; None: any.


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A recipe at the cheapest work that reaches the recall; where none does, at the most that was tried."""

    recipe: str  # To be given to `index build`.
    complete: str  # With all that follows from the full count.
    ram_bytes: float  # For each vector at the full count, by formula.
    formula_off: float  # By what share the formula differed from what the sample's codes took.
    search_parameter: int
    factor: int
    recall_half: float  # With this work, at half of the sample.
    recall_sample: float
    recall: float  # Carried over to the full count.
    cpu_ms_sample: float  # Of one core, for one query; full vectors are in memory.
    cpu_ms: float  # Carried over to the full count.
    pages: float  # Of the file of full vectors, that one query reads.
    trained_s: float  # Of one core, for the sample.


def carried(half: float, sample: float, doublings: float) -> float:
    """Recall after so many doublings of the sample: each loses what the last one lost; no gain is carried."""
    return max(0.0, sample - max(0.0, half - sample) * doublings)


def excesses(measured: Measured, budget: Budget) -> dict[str, float]:
    """By how much of the budget a recipe fails it, by name; empty: it meets it."""
    missed = (1 - measured.recall) / max(1 - budget.recall, 1e-3)
    over = {"bytes": measured.ram_bytes / budget.bytes_per_vector - 1, "recall": missed - 1}
    if budget.latency_ms is not None:
        over["latency"] = measured.cpu_ms / budget.latency_ms - 1
    return {name: excess for name, excess in over.items() if excess > 0}


def chosen(rows: Iterable[Measured], budget: Budget) -> Measured | None:
    """The fastest that meets the budget; of equal ones the smallest."""
    fitting = (row for row in rows if not excesses(row, budget))
    return min(fitting, key=lambda row: (row.cpu_ms, row.ram_bytes), default=None)


def nearest(rows: Iterable[Measured], budget: Budget) -> Measured:
    """The recipe that fails the budget by the least, all excesses together."""
    return min(rows, key=lambda row: (sum(excesses(row, budget).values()), row.ram_bytes))


def front(rows: Iterable[Measured], recall: float) -> Sequence[Measured]:
    """Of those that reach the recall: each faster than all that take less memory, by rising memory."""
    found: list[Measured] = []
    for row in sorted((row for row in rows if row.recall >= recall), key=lambda row: (row.ram_bytes, row.cpu_ms)):
        if not found or row.cpu_ms < found[-1].cpu_ms:
            found.append(row)
    return found
