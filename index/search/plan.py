"""Plan the search for k neighbours that pass a filter: exact, or approximate at which operating point. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lookalike.releases.manifest import IndexEntry, OperatingPoint

# Under a random, selective filter the 10th row that passes lies at over this multiple of its expected depth in 7 % of
# cases.
_SPREAD = 1.5
# Where at least this share passes, mostly all but deleted rows, effort is for the expected depth alone, and candidates
# are counted to so many standard deviations more: fewer than k of them pass in 1 of 1,000 searches.
_LARGE_SHARE, _DEVIATIONS = 0.7, 3.0
_DEPTH_TOLERANCE = 0.1  # Ranks by which the depth may be exceeded, so that a few deletions change no plan.
_DEEPENING_FACTOR = 4  # Of the depth, for queries near which fewer rows pass than elsewhere.
# Finding one more candidate takes about as much time as comparing this many full vectors (4-bit codes: 0.05 µs, a
# vector of 1024 dimensions: 0.17 µs).
_CANDIDATE_COST = 0.3


class Plan(NamedTuple):
    """Search for the `depth` nearest of all vectors and keep those that pass: if k of them do, they are the k best."""

    depth: int
    operating_point: OperatingPoint  # Of the depth at which the k-th that passes is expected.

    @property
    def candidates(self) -> int:
        return max(self.depth, self.operating_point.depth * self.operating_point.refine_factor)

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
    if share < _LARGE_SHARE:
        depth = math.ceil(k / share * (share + _SPREAD * (1 - share)) - _DEPTH_TOLERANCE)
        return _plan_at(index, documents, matching, depth, depth)
    expected_depth = math.ceil(k / share - _DEPTH_TOLERANCE)
    depth = math.ceil((k + _DEVIATIONS * math.sqrt(k * (1 - share))) / share - _DEPTH_TOLERANCE)
    return _plan_at(index, documents, matching, expected_depth, depth)


def next_plan(index: IndexEntry, documents: int, matching: int, last: Plan) -> Plan | None:
    """The plan to try after `last`, for queries of which too few of the nearest passed; None: exact search."""
    depth = last.depth * _DEEPENING_FACTOR
    return _plan_at(index, documents, matching, depth, depth)


def _plan_at(index: IndexEntry, documents: int, matching: int, expected_depth: int, depth: int) -> Plan | None:
    """The approximate search of that depth; None if an exact search of the matching rows is cheaper."""
    point = _operating_point(index.operating_points, expected_depth)
    if point is None:
        return None
    plan = Plan(depth, point)
    return plan if plan.comparisons(documents, matching) < matching else None


def _operating_point(points: Sequence[OperatingPoint], depth: int) -> OperatingPoint | None:
    """The effort for that depth, between those measured at the next lower and higher depths; None: none is as deep.

    Effort grows with a power of the depth, so that its chord over the logarithm of the depth lies above it.
    """
    higher = next((i for i, point in enumerate(points) if point.depth >= depth), None)
    if higher is None:
        return None
    above = points[higher]
    if not higher or above.depth == depth:
        return replace(above, depth=depth)
    below = points[higher - 1]
    share = math.log(depth / below.depth) / math.log(above.depth / below.depth)
    search_parameter = below.search_parameter + share * (above.search_parameter - below.search_parameter)
    return replace(
        above,
        depth=depth,
        search_parameter=math.ceil(search_parameter),
        cost=below.cost + share * (above.cost - below.cost),
        recall=min(below.recall, above.recall),
    )
