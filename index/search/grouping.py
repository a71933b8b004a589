"""Which hits of a ranking a query wants, and how deep the ranking must go until it holds them all. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from index.search.queries import Query
from lookalike.runtime.grouping import limit_per_shop
from lookalike.vectors import F32

_DEEPER = 4  # Times, where a ranking held too few.
_COUNTED = 256  # From here on it takes longer to go deeper than to count how many hits there can be.
_DEEPEST = 10_000  # No build measures how hard to search for more: beyond it everything would be compared.


class Ranking(Protocol):
    """By falling score."""

    @property
    def scores(self) -> F32: ...


Ranked = TypeVar("Ranked", bound=Ranking)
Ranked_co = TypeVar("Ranked_co", bound=Ranking, covariant=True)


def chosen(query: Query, scores: F32, id_of: Callable[[int], str], shop_of: Callable[[int], str]) -> Sequence[int]:
    """The places of its k hits in a ranking: none below `min_score`, none of `without`, `max_per_shop` of one shop."""
    places: Sequence[int] = range(
        len(scores) if query.min_score == -math.inf else int((scores >= query.min_score).sum())
    )
    if query.without:
        places = [place for place in places if id_of(place) not in query.without]
    if query.max_per_shop:
        return [places[i] for i in limit_per_shop(map(shop_of, places), query.max_per_shop, query.k)]
    return places[: query.k]


class Products(Protocol[Ranked_co]):
    """What is searched."""

    def nearest(self, queries: Sequence[Query], /) -> Sequence[Ranked_co]:
        """The k best for each query, fewer only where there are no more."""

    def possible(self, query: Query, /) -> int:
        """How many hits there can be whatever they score, at most `max_per_shop` of a shop; k if there are more."""

    def of_each_shop(self, query: Query, /) -> Ranked_co:
        """The best of each shop by exact scores, and of no shop: among them the k hits, or all there are."""


def settled(
    queries: Sequence[Query], products: Products[Ranked], choose: Callable[[Query, Ranked], Sequence[int]]
) -> list[tuple[Ranked, Sequence[int]]]:
    """For each query a ranking and the places of its hits in it: k of them, or all there are.

    Whoever got too few asks again, for more; at last everything is compared once.
    """
    answers: dict[int, tuple[Ranked, Sequence[int]]] = {}
    depths = {i: _first_depth(query) for i, query in enumerate(queries)}
    while depths:
        rankings = products.nearest([_of_depth(queries[i], depth) for i, depth in depths.items()])
        deeper = {}
        for (i, depth), ranking in zip(depths.items(), rankings, strict=True):
            query = queries[i]
            places = choose(query, ranking)
            if _is_whole(query, ranking.scores, depth, len(places), products.possible):
                answers[i] = ranking, places
            elif query.exact or depth * _DEEPER > _DEEPEST:
                best = products.of_each_shop(query)
                answers[i] = best, choose(query, best)
            else:
                deeper[i] = depth * _DEEPER
        depths = deeper
    return [answers[i] for i in range(len(queries))]


def _of_depth(query: Query, depth: int) -> Query:
    return query if query.k == depth else query._replace(k=depth)


def _first_depth(query: Query) -> int:
    return (2 if query.max_per_shop else 1) * query.k + len(query.without)


def _is_whole(query: Query, scores: F32, depth: int, hits: int, possible: Callable[[Query], int]) -> bool:
    """Whether a ranking with so many hits holds all that are wanted, or all there are."""
    if hits >= query.k or len(scores) < depth or scores[-1] < query.min_score:
        return True
    return (query.exact or depth >= _COUNTED) and hits >= possible(query)
