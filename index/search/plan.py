"""Plan the search for k neighbours that pass a filter: exact, or approximate at which operating point. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from index.storage.manifest import IndexEntry, OperatingPoint

# Under a random filter that passes few, the 10th row that passes lies more than this much deeper than on average in 7
# of 100 cases.
_SPREAD = 1.5
_DEPTH_TOLERANCE = 0.1  # Ranks by which the depth may be exceeded: a few deletions need no harder search.
_DEEPENING_FACTOR = 4  # For queries near which fewer rows pass than elsewhere.
# Finding one more candidate takes about as much time as comparing this many full vectors (4-bit codes: 0.05 µs, a
# vector of 1024 dimensions: 0.17 µs).
_CANDIDATE_COST = 0.3


class Plan(NamedTuple):
    """Search for the `depth` nearest of all vectors and keep those that pass: if k of them do, they are the k best."""

    depth: int
    rung: OperatingPoint  # Of at least that depth.

    @property
    def candidates(self) -> int:
        return self.depth * self.rung.refine_factor


def first_plan(index: IndexEntry, documents: int, matching: int, k: int) -> Plan | None:
    """The plan to try first, for `matching` of the documents that pass the filter; None: compare each of them.

    Where one row in f passes, the k-th neighbour lies about k·f deep among all vectors. Exact search is chosen where
    it is cheaper, and where neighbours lie deeper than any measured operating point.
    """
    if not matching or not k:
        return None
    share = matching / documents
    depth = k / share * (share + _SPREAD * (1 - share))
    return _plan_at(index, documents, matching, math.ceil(depth - _DEPTH_TOLERANCE))


def next_plan(index: IndexEntry, documents: int, matching: int, last: Plan) -> Plan | None:
    """The plan to try after `last`, for queries of which too few of the nearest passed; None: compare each."""
    return _plan_at(index, documents, matching, last.depth * _DEEPENING_FACTOR)


def _plan_at(index: IndexEntry, documents: int, matching: int, depth: int) -> Plan | None:
    """The approximate search of that depth, unless an exact search of the matching rows is cheaper."""
    rung = next((rung for rung in index.operating_points if rung.depth >= depth), None)
    if rung is None:
        return None
    plan = Plan(depth, rung)
    rescored = plan.candidates * matching / documents
    return plan if rung.cost + _CANDIDATE_COST * plan.candidates + rescored < matching else None
