"""One recipe tried on a sample of vectors, at two sizes: what work finds enough, and what that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import log2

import numpy as np

from index.building.ladder import Exam
from index.building.tune_choice import Budget, Measured, carried
from index.kinds import choice, engine, formulas
from index.kinds.recipe import Graph, Lists, resolved
from index.kinds.seam import Codes
from index.storage.manifest import Rung
from index.storage.vectors import PAGE, Stored

QUERIES = 400  # The standard error of a recall@10 of 0.95 is about 0.4 %.
_ROUNDS = 3  # Of timing; the median counts.
_CLIMBS = 3  # How often more work is tried where the recall that is carried over is not enough.


def candidates(dim: int) -> Sequence[str]:
    """The recipes worth trying. Exact search is none: it takes no memory, but more time than anybody has."""
    return (
        *(f"OPQ{parts}_{held},IVF,PQ{parts}x4fs" for parts, held in ((16, 64), (32, 128), (64, 256)) if held < dim),
        *(f"PCAR{held},IVF,RaBitQ" for held in (128, 256) if held < dim),
        *(f"PCAR{held},IVF,SQ4" for held in (64, 128) if held < dim),
        "IVF,PQ4fs",
        "IVF,RaBitQ",
        "IVF,SQ8",
        "HNSW32,SQ8",
    )


def tried(name: str, vectors: Stored, budget: Budget, *, seed: int, threads: int) -> Measured:
    """Of unit vectors in no certain order: all of them, and their first half."""
    half = vectors[: len(vectors) // 2]
    # The same queries at both sizes: what is lost between them is not the luck of the draw.
    random = np.random.default_rng(seed)
    asked = np.sort(random.choice(len(half), min(QUERIES, len(half)), replace=False))
    documents, dim = vectors.shape
    recipe, whole = _recipe(name, documents, dim), _recipe(name, budget.documents, dim)
    began_s = time.process_time()
    codes = choice.trained(recipe, vectors, seed, threads)
    trained_s = time.process_time() - began_s
    small = choice.trained(_recipe(name, len(half), dim), half, seed, threads)
    engine.use_threads(1)
    exam, before = Exam(codes, vectors, budget.k, asked), Exam(small, half, budget.k, asked)
    rung, recall_half, recall = _climbed(codes, exam, before, budget)
    work = formulas.cost(recipe, documents, dim, rung.search_parameter) + budget.k * rung.factor
    works = formulas.cost(whole, budget.documents, dim, rung.search_parameter) + budget.k * rung.factor
    cpu_ms = _cpu_ms(exam, rung)
    return Measured(
        recipe=name,
        complete=str(whole),
        ram_bytes=formulas.ram_bytes(whole, budget.documents, dim) / budget.documents,
        formula_off=formulas.ram_bytes(recipe, documents, dim) / codes.ram_bytes() - 1,
        search_parameter=rung.search_parameter,
        factor=rung.factor,
        recall_half=recall_half,
        recall_sample=rung.recall,
        recall=recall,
        cpu_ms_sample=cpu_ms,
        cpu_ms=cpu_ms * works / work,
        pages=_pages(codes, exam, rung),
        trained_s=trained_s,
    )


def _recipe(name: str, documents: int, dim: int) -> Lists | Graph:
    recipe = resolved(name, documents, dim, 0)
    assert isinstance(recipe, Lists | Graph), name  # noqa: S101  # `candidates` names no others
    return recipe


def _climbed(codes: Codes, exam: Exam, before: Exam, budget: Budget) -> tuple[Rung, float, float]:
    """The least work whose recall is enough when it is carried over, its recall at half of the sample, and carried."""
    doublings = log2(budget.documents / len(exam.space))
    target = budget.recall
    for _ in range(_CLIMBS):
        rung = exam.least(target)
        if rung is None:
            break
        half, recall = _carried(rung, before, doublings)
        if recall >= budget.recall:
            return rung, half, recall
        target = min(1.0, rung.recall + budget.recall - recall)
    most = exam.measured(max(codes.efforts(budget.k)), max(codes.factors))
    return most, *_carried(most, before, doublings)


def _carried(rung: Rung, before: Exam, doublings: float) -> tuple[float, float]:
    half = before.measured(rung.search_parameter, rung.factor).recall
    return half, carried(half, rung.recall, doublings)


def _cpu_ms(exam: Exam, rung: Rung) -> float:
    """Of one query at a time, as most come."""
    queries, rounds = exam.queries(exam.asked), []
    for _ in range(_ROUNDS):
        began_s = time.thread_time()
        for query in queries:
            exam.space.probe(query[None, :], exam.depth, rung)
        rounds.append((time.thread_time() - began_s) * 1e3 / len(queries))
    return float(np.median(rounds))


def _pages(codes: Codes, exam: Exam, rung: Rung) -> float:
    """Distinct pages of the vectors that are compared again, on average; the first vector begins on a page."""
    size = exam.space.vectors.itemsize * exam.space.dim
    counts = []
    for query in exam.queries(exam.asked):
        rows = codes.candidates(query[None, :], exam.depth * rung.factor, rung.search_parameter)[0]
        first, last = rows[rows >= 0] * size // PAGE, ((rows[rows >= 0] + 1) * size - 1) // PAGE
        counts.append(len(np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))))
    return float(np.mean(counts))
