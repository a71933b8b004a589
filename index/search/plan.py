"""How to look for k neighbours among the rows that pass: exactly, or how many lists and candidates. Pure."""

from __future__ import annotations

from index.storage.manifest import IndexEntry, Rung

# One full vector compared costs as much time as this many 4-bit codes scanned (1024-d, one core: 0.17 µs, 0.012 µs).
CODES_PER_ROW = 14
# Under a random filter the 10th row that passes lies more than this much deeper than on average in 7 of 100 cases.
SPREAD = 1.5


def plan(index: IndexEntry, documents: int, passing: int, k: int) -> Rung | None:
    """The rung of the measured ladder to search with; None: compare with each passing row.

    Where one row in f passes, the k-th neighbour lies about k·f deep among all vectors: a filter needs a deeper rung.
    Exact search is chosen where it is cheaper, and where neighbours lie deeper than was measured.
    """
    if not passing or not k:
        return None
    depth = k * documents / passing * (SPREAD if passing < documents else 1)
    rung = next((rung for rung in index.ladder if rung.depth >= depth), None)
    if rung is None or passing <= cost_in_rows(index, documents, rung, k):
        return None
    return rung


def cost_in_rows(index: IndexEntry, documents: int, rung: Rung, k: int) -> float:
    """About as much time as comparing with so many full vectors: find the lists, scan their codes, rescore."""
    return index.nlist + documents * rung.nprobe / index.nlist / CODES_PER_ROW + k * rung.factor
