"""All products of a shard at one moment: segments, each product in at most one of them. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from index.search import shops
from index.search.queries import Query
from index.search.segment import Found, Look, Segment
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

Told = TypeVar("Told")


class Place(NamedTuple):
    """Where a product is, in the view that told it."""

    segment: Segment
    row: int

    @property
    def id(self) -> str:
        return self.segment.table.ids.text(self.row)

    @property
    def product(self) -> bytes:
        """Serialized, without its description."""
        return self.segment.table.products[self.row]

    @property
    def description(self) -> str:
        return self.segment.table.description(self.row)

    def vector(self, number: Space.ValueType) -> F32 | None:
        return self.segment.spaces[number].vector(self.row)


class Hits(NamedTuple):
    """Of one query, by falling score, equal scores by rising id. What is told of them is read when it is asked for."""

    segments: Sequence[Segment]
    of: I64 | None  # The segment of each; None: all are of the first.
    rows: I64
    scores: F32
    looks: tuple[Look, ...]  # In each segment, in each of the query's spaces.

    @property
    def ids(self) -> list[str]:
        return self._read(Segment.ids)

    @property
    def products(self) -> list[bytes]:
        """Serialized, without their descriptions."""
        return self._read(Segment.products)

    @property
    def shops(self) -> list[str]:
        """Empty where a product has none."""
        return self._read(Segment.shops)

    @property
    def places(self) -> list[Place]:
        return self._read(lambda segment, rows: [Place(segment, row) for row in rows.tolist()])

    def only(self, chosen: Sequence[int]) -> Hits:
        """Those at the chosen places of the ranking, in that order."""
        at = [*chosen]
        of = None if self.of is None else self.of[at]
        return Hits(self.segments, of, self.rows[at], self.scores[at], self.looks)

    def _read(self, read: Callable[[Segment, I64], list[Told]]) -> list[Told]:
        if self.of is None:
            return read(self.segments[0], self.rows)
        told = [iter(read(segment, self.rows[self.of == i])) for i, segment in enumerate(self.segments)]
        return [next(told[i]) for i in self.of.tolist()]


class View:
    """Nothing in it changes: a write makes another. For many threads at a time."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    def vectors(self, number: Space.ValueType) -> int:
        return sum(segment.vectors(number) for segment in self.segments)

    def find(self, product_id: str) -> Place | None:
        for segment in self.segments:
            if (row := segment.find(product_id.encode())) is not None:
                return Place(segment, row)
        return None

    def nearest(self, queries: Sequence[Query]) -> list[Hits]:
        """Each segment is asked for as many as the query wants: any of them may hold the best."""
        found = [_nearest(segment, queries) for segment in self.segments]
        return [self._best([each[i] for each in found], query.k) for i, query in enumerate(queries)]

    def possible(self, query: Query) -> int:
        """How many hits there can be whatever they score, at most `max_per_shop` of a shop; k if there are more."""
        tables = ((segment.shop_codes, segment.eligible(query)) for segment in self.segments)
        return shops.possible(tables, query.max_per_shop, query.k)

    def of_each_shop(self, query: Query) -> Hits:
        """The best of each shop by exact scores, and of no shop: among them the k hits, or all there are."""
        found = [segment.of_each_shop(query) for segment in self.segments]
        return self._best(found, sum(len(each.rows) for each in found))

    def _best(self, found: Sequence[Found], k: int) -> Hits:
        if len(found) == 1 and self.segments[0].table.order is None:
            return Hits(self.segments, None, *found[0])
        scores = np.concatenate([neighbours.scores for neighbours in found])
        rows = np.concatenate([neighbours.rows for neighbours in found])
        of = np.repeat(np.arange(len(found)), [len(neighbours.rows) for neighbours in found])
        edge = np.partition(scores, len(scores) - k)[len(scores) - k] if 0 < k < len(scores) else -np.inf
        near = scores >= edge
        looks = tuple(look for each in found for look in each.looks)
        hits = Hits(self.segments, of[near], rows[near], scores[near], looks)
        order = sorted(zip((-hits.scores).tolist(), hits.ids, range(len(hits.rows)), strict=True))
        return hits.only([at for *_, at in order[:k]])

    def cosines(self, query: Query, places: Sequence[Place]) -> F32:
        """(s, c): in each of the query's spaces with each of the products."""
        cosines = np.zeros((len(query.vectors), len(places)), dtype=np.float32)
        for segment in self.segments:
            at = [i for i, place in enumerate(places) if place.segment is segment]
            cosines[:, at] = segment.cosines(query, np.array([places[i].row for i in at], dtype=np.int64))
        return cosines

    def count(self, condition: bytes) -> int:
        """How many products pass the serialized filter."""
        return sum(segment.count(condition) for segment in self.segments)

    def page(self, condition: bytes, after: str, size: int) -> list[tuple[str, Place]]:
        """The next products that pass, by rising id, at most `size`; none: there are no more."""
        pages = [[Place(each, row) for row in each.page(condition, after, size)] for each in self.segments]
        return sorted((place.id, place) for page in pages for place in page)[:size]


def _nearest(segment: Segment, queries: Sequence[Query]) -> list[Found]:
    if segment.table.order is None:
        return segment.nearest(queries)
    return [_with_ties(segment, query) for query in queries]


def _with_ties(segment: Segment, query: Query) -> Found:
    """Of a table whose rows are not in the order of ids: all that are as good as the last, so that the ids decide."""
    depth = query.k + 1
    while True:
        (found,) = segment.nearest([query._replace(k=depth)])
        if len(found.rows) < depth or not query.k or found.scores[-1] < found.scores[query.k - 1]:
            return found
        depth *= 2
