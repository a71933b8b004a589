"""How to look for k neighbours among the rows that pass: exactly, or how hard and with how many candidates. Pure."""

from __future__ import annotations

from index.storage.manifest import IndexEntry, Rung

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
    if rung is None or passing <= rung.cost + k * rung.factor:
        return None
    return rung
