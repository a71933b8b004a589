"""Plan the search for k neighbours that pass a filter: exact, or approximate at which operating point. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from index.storage.manifest import IndexEntry, OperatingPoint

# Under a random, selective filter the 10th row that passes lies at over this multiple of its expected depth in 7 % of
# cases.
_SPREAD = 1.5
_DEPTH_TOLERANCE = 0.1  # Ranks by which the depth may be exceeded, so that a few deletions change no plan.
_DEEPENING_FACTOR = 4  # Of the depth, for queries near which fewer rows pass than elsewhere.
# Finding one more candidate takes about as much time as comparing this many full vectors (4-bit codes: 0.05 µs, a
# vector of 1024 dimensions: 0.17 µs).
_CANDIDATE_COST = 0.3


class Plan(NamedTuple):
    """Search for the `depth` nearest of all vectors and keep those that pass: if k of them do, they are the k best."""

    depth: int
    operating_point: OperatingPoint  # Of at least that depth.

    @property
    def candidates(self) -> int:
        return self.depth * self.operating_point.refine_factor

    def comparisons(self, documents: int, matching: int) -> float:
        """The time of the search, in units of comparing a query with one full vector."""
        rescored = self.candidates * matching / documents
        return self.operating_point.cost + _CANDIDATE_COST * self.candidates + rescored


def first_plan(index: IndexEntry, documents: int, matching: int, k: int) -> Plan | None:
    """The plan to try first, for `matching` of the documents that pass the filter; None: exact search.

    If one row in f passes, the k-th result is about the k·f-th nearest of all vectors. Exact search is chosen if it is
    cheaper, or if no operating point was measured at that depth.
    """
    if not matching or not k:
        return None
    share = matching / documents
    depth = k / share * (share + _SPREAD * (1 - share))
    return _plan_at(index, documents, matching, math.ceil(depth - _DEPTH_TOLERANCE))


def next_plan(index: IndexEntry, documents: int, matching: int, last: Plan) -> Plan | None:
    """The plan to try after `last`, for queries of which too few of the nearest passed; None: exact search."""
    return _plan_at(index, documents, matching, last.depth * _DEEPENING_FACTOR)


def _plan_at(index: IndexEntry, documents: int, matching: int, depth: int) -> Plan | None:
    """The approximate search of that depth; None if an exact search of the matching rows is cheaper."""
    point = next((point for point in index.operating_points if point.depth >= depth), None)
    if point is None:
        return None
    plan = Plan(depth, point)
    return plan if plan.comparisons(documents, matching) < matching else None
