"""Select the hits of a ranking, and search deeper until the ranking holds k of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from lookalike.runtime.grouping import limit_per_shop
from lookalike.shard_query import ShardQuery
from lookalike.vectors import F32

_WIDENING_FACTOR = 4  # By which the depth grows when a ranking held too few hits.
_MIN_COUNTED_DEPTH = 256  # From this depth on, counting how many hits can exist is faster than searching deeper.
_MAX_DEPTH = 10_000  # Builds measure no operating points beyond it: exact search instead.


class RankedHits(Protocol):
    """Results of one query, by falling score."""

    @property
    def scores(self) -> F32: ...


Ranked = TypeVar("Ranked", bound=RankedHits)
Ranked_co = TypeVar("Ranked_co", bound=RankedHits, covariant=True)


def select_hits(
    query: ShardQuery, scores: F32, id_of: Callable[[int], str], shop_of: Callable[[int], str]
) -> Sequence[int]:
    """Positions in a ranking of the query's k hits.

    Leaves out scores below `min_score`, ids in `exclude_ids`, and more than `max_per_shop` of one shop.
    """
    positions: Sequence[int] = range(
        len(scores) if query.min_score == -math.inf else int((scores >= query.min_score).sum())
    )
    if query.exclude_ids:
        positions = [position for position in positions if id_of(position) not in query.exclude_ids]
    if query.max_per_shop:
        return [positions[i] for i in limit_per_shop(map(shop_of, positions), query.max_per_shop, query.k)]
    return positions[: query.k]


class Searchable(Protocol[Ranked_co]):
    """What `widen_until_filled` searches."""

    def nearest(self, queries: Sequence[ShardQuery], /) -> Sequence[Ranked_co | None]:
        """The k best for each query; fewer only if no more exist. None: that is more work than is allowed."""

    def max_hits(self, query: ShardQuery, /) -> int:
        """How many hits can exist at any score, at most `max_per_shop` of a shop; k if there are more."""

    def best_per_shop(self, query: ShardQuery, /) -> Ranked_co | None:
        """The exact best of each shop, and of those without one; they include the k hits, or all that exist.

        None: that is more work than is allowed.
        """


def widen_until_filled(
    queries: Sequence[ShardQuery],
    searchable: Searchable[Ranked],
    select: Callable[[ShardQuery, Ranked], Sequence[int]],
) -> list[tuple[Ranked, Sequence[int]] | None]:
    """For each query a ranking and the positions of its hits in it: k of them, or all that exist.

    None where finding them is more work than is allowed.

    A query with too few hits is searched again at four times the depth; beyond 10,000 by one exact search.
    """
    results: dict[int, tuple[Ranked, Sequence[int]]] = {}  # Without those that are more work than is allowed.
    depths = {i: _first_depth(query) for i, query in enumerate(queries)}
    while depths:
        rankings = searchable.nearest([_with_depth(queries[i], depth) for i, depth in depths.items()])
        next_depths = {}
        for (i, depth), ranking in zip(depths.items(), rankings, strict=True):
            query = queries[i]
            if ranking is None:
                continue
            positions = select(query, ranking)
            if _is_complete(query, ranking.scores, depth, len(positions), searchable.max_hits):
                results[i] = ranking, positions
            elif query.exact or depth * _WIDENING_FACTOR > _MAX_DEPTH:
                if (best := searchable.best_per_shop(query)) is not None:
                    results[i] = best, select(query, best)
            else:
                next_depths[i] = depth * _WIDENING_FACTOR
        depths = next_depths
    return [results.get(i) for i in range(len(queries))]


def _with_depth(query: ShardQuery, depth: int) -> ShardQuery:
    return query if query.k == depth else query._replace(k=depth)


def _first_depth(query: ShardQuery) -> int:
    return (2 if query.max_per_shop else 1) * query.k + len(query.exclude_ids)


def _is_complete(query: ShardQuery, scores: F32, depth: int, hits: int, max_hits: Callable[[ShardQuery], int]) -> bool:
    """Whether a ranking with this number of hits holds k of them, or all that exist."""
    if hits >= query.k or len(scores) < depth or scores[-1] < query.min_score:
        return True
    return (query.exact or depth >= _MIN_COUNTED_DEPTH) and hits >= max_hits(query)
