"""Products that are searched together: their table and their vectors by space. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from index.kinds.passing import Mask, Passing
from index.search import fusion
from index.search.filters import PassingCache, mask_of
from index.search.queries import Query
from index.search.scores import Neighbours, best_of, chunks_of
from index.search.space import SpaceIndex
from index.storage.attributes import Attributes
from lookalike.vectors import F32, I64
from protos.lookalike.v1 import types_pb2
from protos.lookalike.v1.types_pb2 import Space

_ALL = Space.SPACE_AUTO  # The key under which filters over the whole table, not over one space, are cached.


class _Kind(NamedTuple):
    """What searches that are done together have in common. Of k too: an answer must not depend on its company."""

    space: Space.ValueType
    filter: bytes
    k: int
    enough: int
    exact: bool


class Segment:
    """Neither table nor vectors change. For many threads at a time."""

    def __init__(self, table: Attributes, spaces: Mapping[Space.ValueType, SpaceIndex], *, filters: int = 64) -> None:
        self.table = table
        self.spaces = spaces
        self._filters = PassingCache(filters)

    def __len__(self) -> int:
        return len(self.table)

    def nearest(self, queries: Sequence[Query]) -> list[Neighbours]:
        """Of each query, as rows of the table. Searches of one kind are done together, of whichever queries."""
        groups: dict[_Kind, list[tuple[int, F32]]] = {}
        for i, query in enumerate(queries):
            for kind, vector in _searches(query):
                groups.setdefault(kind, []).append((i, vector))
        per_query: list[list[Neighbours]] = [[] for _ in queries]
        for kind, members in groups.items():
            vectors = np.stack([vector for _, vector in members])
            passing = self._passing(kind.space, kind.filter)
            searched = self.spaces[kind.space]
            found = searched.search(vectors, kind.k, passing, audit=kind.exact, enough=kind.enough)
            for (i, _), neighbours in zip(members, found, strict=True):
                per_query[i].append(neighbours)
        return [
            per_space[0] if len(query.vectors) == 1 else self._fused(query, per_space)
            for query, per_space in zip(queries, per_query, strict=True)
        ]

    def _fused(self, query: Query, nearest: Sequence[Neighbours]) -> Neighbours:
        """The best by all the query's spaces together, among the nearest in each."""
        if query.exact:
            candidates = self._everything(query)
        else:
            candidates = np.unique(np.concatenate([found.rows for found in nearest]))
        return best_of(
            chunks_of(candidates), query.k, lambda rows: fusion.fused(self.cosines(query, rows), query.shares)
        )

    def _everything(self, query: Query) -> I64:
        """The rows that pass and have a vector in any of the query's spaces."""
        candidates = np.zeros(len(self.table), dtype=np.bool_)
        for number in query.vectors:
            rows, passing = self.spaces[number].rows, self._passing(number, query.filter)
            candidates[rows if passing is None else rows[passing.rows]] = True
        return np.flatnonzero(candidates)

    def cosines(self, query: Query, rows: I64) -> F32:
        """(s, c): in each of the query's spaces with each of the rows."""
        return np.stack([self.spaces[number].cosines(vector, rows) for number, vector in query.vectors.items()])

    def count(self, condition: bytes) -> int:
        """How many products pass the serialized filter."""
        passing = self._passing(_ALL, condition)
        return len(self.table) if passing is None else passing.count

    def page(self, condition: bytes, after: str, size: int) -> list[int]:
        """The rows of the next products that pass, by rising id, at most `size`; none: there are no more."""
        passing = self._passing(_ALL, condition)
        start = self.table.ids.after(after.encode()) if after else 0
        return list(islice(_from(start, len(self.table), passing), size))

    def _passing(self, number: Space.ValueType, condition: bytes) -> Passing | None:
        """What passes, over the vectors of a space or over the table; None: everything."""
        if not condition:
            return None
        return self._filters.get(number, condition, lambda: Passing.of(self._mask(number, condition)))

    def _mask(self, number: Space.ValueType, condition: bytes) -> Mask:
        if number == _ALL:
            return mask_of(self.table, types_pb2.Filter.FromString(condition))
        everywhere = self._filters.get(_ALL, condition, lambda: Passing.of(self._mask(_ALL, condition)))
        return everywhere.mask[self.spaces[number].rows]


def _searches(query: Query) -> list[tuple[_Kind, F32]]:
    """The searches by one vector that a query takes. Exact fusion takes none: all products are its candidates."""
    several = len(query.vectors) > 1
    if several and query.exact:
        return []
    k = fusion.depth(query.k) if several else query.k
    return [(_Kind(number, query.filter, k, query.k, query.exact), vector) for number, vector in query.vectors.items()]


def _from(start: int, end: int, passing: Passing | None) -> Iterable[int]:
    if passing is None:
        return range(start, end)
    rows = passing.rows
    return (int(row) for row in rows[np.searchsorted(rows, start) :])
