"""How to look for k neighbours among the rows that pass: exactly, or how deep, how hard and among how many. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from index.storage.manifest import IndexEntry, OperatingPoint

# Under a random filter that passes few, the 10th row that passes lies more than this much deeper than on average in 7
# of 100 cases.
_SPREAD = 1.5
_HARDLY = 0.1  # Deeper: a few deletions are no reason to look harder for all.
_DEEPER = 4  # Times, for queries near which fewer pass than elsewhere.
# To find one more candidate takes about as much time as comparing this many full vectors (4-bit codes: 0.05 µs, a
# vector of 1024 dimensions: 0.17 µs).
_CANDIDATE = 0.3


class Plan(NamedTuple):
    """Search as if the `depth` nearest of all were wanted, and keep what passes: if k of them do, it is the k best."""

    depth: int
    rung: OperatingPoint  # Of at least that depth.

    @property
    def candidates(self) -> int:
        return self.depth * self.rung.refine_factor


def plan(index: IndexEntry, documents: int, passing: int, k: int) -> Plan | None:
    """What to try first; None: compare with each passing row.

    Where one row in f passes, the k-th neighbour lies about k·f deep among all vectors. Exact search is chosen where
    it is cheaper, and where neighbours lie deeper than was measured.
    """
    if not passing or not k:
        return None
    share = passing / documents
    depth = k / share * (share + _SPREAD * (1 - share))
    return _planned(index, documents, passing, math.ceil(depth - _HARDLY))


def deeper(index: IndexEntry, documents: int, passing: int, tried: Plan) -> Plan | None:
    """What to try next for queries of which too few of the nearest passed."""
    return _planned(index, documents, passing, tried.depth * _DEEPER)


def _planned(index: IndexEntry, documents: int, passing: int, depth: int) -> Plan | None:
    rung = next((rung for rung in index.operating_points if rung.depth >= depth), None)
    if rung is None:
        return None
    planned = Plan(depth, rung)
    compared = planned.candidates * passing / documents
    return planned if rung.cost + _CANDIDATE * planned.candidates + compared < passing else None
