"""Which hits of a ranking a query wants, and how deep the ranking must go until it holds them all. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from index.search.queries import Query
from lookalike.grouping import within
from lookalike.vectors import F32

_DEEPER = 4  # Times, where a ranking held too few.


class Ranking(Protocol):
    """By falling score."""

    @property
    def scores(self) -> F32: ...


Ranked = TypeVar("Ranked", bound=Ranking)


def chosen(query: Query, scores: F32, id_of: Callable[[int], str], shop_of: Callable[[int], str]) -> list[int]:
    """The places of its k hits in a ranking: none below `min_score`, none of `without`, `max_per_shop` of one shop."""
    places = [*range(len(scores) if query.min_score == -math.inf else int((scores >= query.min_score).sum()))]
    if query.without:
        places = [place for place in places if id_of(place) not in query.without]
    if query.max_per_shop:
        return [places[i] for i in within(map(shop_of, places), query.max_per_shop, query.k)]
    return places[: query.k]


def settled(
    queries: Sequence[Query],
    nearest: Callable[[Sequence[Query]], Sequence[Ranked]],
    choose: Callable[[Query, Ranked], list[int]],
) -> list[tuple[Ranked, list[int]]]:
    """For each query a ranking and the places of its hits in it: k of them, or all there are.

    nearest: the k best for each query, fewer only where there are no more. Whoever got too few asks again, for more.
    """
    answers: dict[int, tuple[Ranked, list[int]]] = {}
    depths = {i: _first_depth(query) for i, query in enumerate(queries)}
    while depths:
        rankings = nearest([queries[i]._replace(k=depth) for i, depth in depths.items()])
        for (i, depth), ranking in zip([*depths.items()], rankings, strict=True):
            places = choose(queries[i], ranking)
            if len(places) < queries[i].k and _goes_on(queries[i], ranking.scores, depth):
                depths[i] *= _DEEPER
            else:
                answers[i] = ranking, places
                del depths[i]
    return [answers[i] for i in range(len(queries))]


def _first_depth(query: Query) -> int:
    return (2 if query.max_per_shop else 1) * query.k + len(query.without)


def _goes_on(query: Query, scores: F32, depth: int) -> bool:
    """Whether there may be a hit below the ranking."""
    return len(scores) >= depth and scores[-1] >= query.min_score
