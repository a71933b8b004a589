"""Products that are searched together: their table, their vectors by space, and which of them are deleted.

Reads memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from index.backends.filter_bitmap import FilterBitmap, Mask
from index.search import fusion, shops, space
from index.search.filters import PassingCache, mask_of
from index.search.plan import Plan
from index.search.queries import Query
from index.search.scores import best_of, chunks_of
from index.search.shops import Shops
from index.search.space import SpaceIndex
from index.storage import attributes
from index.storage.attributes import Attributes
from index.storage.manifest import Manifest
from index.storage.names import ATTRIBUTES, shard_name
from index.storage.strings import Strings
from lookalike.errors import BadArtifact
from lookalike.spaces import space_number
from lookalike.v1 import types_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

ALL = Space.SPACE_AUTO  # The key of what is over the whole table, not over one space.


class _Kind(NamedTuple):
    """What searches that are done together have in common. Of k too: an answer must not depend on its company."""

    space: Space.ValueType
    filter: bytes
    k: int
    enough: int
    exact: bool


class Look(NamedTuple):
    """How one space was searched for a query."""

    space: Space.ValueType
    documents: int
    passing: int
    recipe: str
    plan: Plan | None  # None: compared with all that pass.


class Found(NamedTuple):
    """Of one query, by falling score, equal scores by rising row."""

    rows: I64
    scores: F32
    looks: tuple[Look, ...]  # In each of the query's spaces, by number.


class Ids(Protocol):
    def find(self, value: bytes, /) -> int | None: ...

    def after(self, value: bytes, /) -> int:
        """How many, by rising id, come before the first greater one."""

    def text(self, i: int, /) -> str: ...


class Products(Protocol):
    def __getitem__(self, i: int, /) -> bytes: ...


class Table(Protocol):
    """Products by row: `Attributes`, or what is in memory only."""

    @property
    def ids(self) -> Ids: ...

    @property
    def products(self) -> Products: ...

    @property
    def parts(self) -> Sequence[Attributes]: ...

    @property
    def order(self) -> I64 | None:
        """The rows by rising id; None: they rise with the ids."""

    def description(self, row: int, /) -> str: ...

    def shop(self, row: int, /) -> str: ...

    def __len__(self) -> int: ...


class Segment:
    """Nothing in it changes: one with deletions is another, which shares the rest. For many threads at a time.

    alive: what is not deleted, over the table under SPACE_AUTO and over the vectors of each space; None: everything.
    """

    def __init__(
        self,
        table: Table,
        spaces: Mapping[Space.ValueType, SpaceIndex],
        *,
        alive: Mapping[Space.ValueType, FilterBitmap] | None = None,
        filters: PassingCache | None = None,
    ) -> None:
        self.table = table
        self.spaces = spaces
        self._alive = alive
        self._filters = PassingCache(64) if filters is None else filters

    def __len__(self) -> int:
        """Products that are not deleted."""
        return len(self.table) if self._alive is None else self._alive[ALL].count

    def vectors(self, number: Space.ValueType) -> int:
        """Of products that are not deleted."""
        return len(self.spaces[number]) if self._alive is None else self._alive[number].count

    def rows(self) -> I64:
        """Of the products that are not deleted, rising."""
        return np.arange(len(self.table)) if self._alive is None else self._alive[ALL].rows

    def positions(self, number: Space.ValueType) -> I64:
        """Of the vectors whose products are not deleted, rising."""
        return np.arange(len(self.spaces[number])) if self._alive is None else self._alive[number].rows

    def find(self, product_id: bytes) -> int | None:
        """The row of a product, unless it is deleted."""
        row = self.table.ids.find(product_id)
        return row if row is not None and (self._alive is None or row in self._alive[ALL]) else None

    def ids(self, rows: I64) -> list[str]:
        ids = self.table.ids
        return ids.texts_at(rows) if isinstance(ids, Strings) else [ids.text(row) for row in rows.tolist()]

    def products(self, rows: I64) -> list[bytes]:
        """Serialized, without their descriptions."""
        products = self.table.products
        return products.values_at(rows) if isinstance(products, Strings) else [products[row] for row in rows.tolist()]

    def shops(self, rows: I64) -> list[str]:
        """Empty where a product has none."""
        table = self.table
        if isinstance(table, Attributes):
            return table.shops.texts_at(table.shop_codes[rows])
        return [table.shop(row) for row in rows.tolist()]

    def without(self, rows: Sequence[int]) -> Segment:
        """The same, in which these rows are deleted."""
        deleted = np.asarray(rows, dtype=np.int64)
        before = self._alive or {
            number: FilterBitmap.from_mask(np.ones(size, dtype=np.bool_))
            for number, size in [(ALL, len(self.table)), *((each, len(found)) for each, found in self.spaces.items())]
        }
        alive = {number: before[number].without(found.positions(deleted)) for number, found in self.spaces.items()}
        alive[ALL] = before[ALL].without(deleted)
        return Segment(self.table, self.spaces, alive=alive, filters=self._filters)

    def nearest(self, queries: Sequence[Query]) -> list[Found]:
        """Of each query, as rows of the table. Searches of one kind are done together, of whichever queries."""
        groups: dict[_Kind, list[tuple[int, F32]]] = {}
        for i, query in enumerate(queries):
            for kind, vector in _searches(query):
                groups.setdefault(kind, []).append((i, vector))
        per_query: list[list[Found]] = [[] for _ in queries]
        for kind, members in groups.items():
            vectors = members[0][1][None, :] if len(members) == 1 else np.stack([vector for _, vector in members])
            passing = self._passing(kind.space, kind.filter)
            searched = self.spaces[kind.space]
            found = searched.explained(vectors, kind.k, passing, audit=kind.exact, enough=kind.enough)
            for (i, _), ((rows, scores), plan) in zip(members, found, strict=True):
                per_query[i].append(Found(rows, scores, (self._look(kind.space, passing, plan),)))
        return [
            per_space[0] if len(query.vectors) == 1 else self._fused(query, per_space)
            for query, per_space in zip(queries, per_query, strict=True)
        ]

    def _look(self, number: Space.ValueType, passing: FilterBitmap | None, plan: Plan | None) -> Look:
        searched = self.spaces[number]
        passed = len(searched) if passing is None else passing.count
        return Look(number, len(searched), passed, searched.entry.recipe, plan)

    def _fused(self, query: Query, nearest: Sequence[Found]) -> Found:
        """The best by all the query's spaces together, among the nearest in each."""
        if query.exact:
            candidates, looks = self._everything(query), self._compared(query)
        else:
            candidates = np.unique(np.concatenate([found.rows for found in nearest]))
            looks = _by_space(look for found in nearest for look in found.looks)
        rows, scores = best_of(chunks_of(candidates), query.k, lambda rows: self._scores(query, rows))
        return Found(rows, scores, looks)

    def of_each_shop(self, query: Query) -> Found:
        """The k best, at most `max_per_shop` of a shop, equal scores by rising id: compares everything that passes."""
        rows, order = self.eligible(query), self.table.order
        if order is not None:
            rows = order[np.isin(order, rows)]
        scores = self._scores(query, rows)
        falling = np.argsort(-scores, kind="stable")
        best = falling[self.shop_codes.within(rows[falling], query.max_per_shop)][: query.k]
        return Found(rows[best], scores[best], self._compared(query))

    def eligible(self, query: Query) -> I64:
        """The rows, rising, that may be hits whatever they score: they pass, have a vector, and are not excluded."""
        rows = self._everything(query)
        gone = [row for product_id in query.without if (row := self.find(product_id.encode())) is not None]
        return rows[~np.isin(rows, gone)] if gone else rows

    @property
    def shop_codes(self) -> Shops:
        return shops.of_parts(self.table.parts)

    def _scores(self, query: Query, rows: I64) -> F32:
        return fusion.fused(self.cosines(query, rows), query.shares)

    def _compared(self, query: Query) -> tuple[Look, ...]:
        return _by_space(self._look(number, self._passing(number, query.filter), None) for number in query.vectors)

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
        passing = self._passing(ALL, condition)
        return len(self.table) if passing is None else passing.count

    def page(self, condition: bytes, after: str, size: int) -> list[int]:
        """The rows of the next products that pass, by rising id, at most `size`; none: there are no more."""
        passing, order = self._passing(ALL, condition), self.table.order
        start = self.table.ids.after(after.encode()) if after else 0
        if order is None:
            rising = range(start, len(self.table)) if passing is None else passing.rows_from(start)
            return list(islice(rising, size))
        rows = order[start:]
        return list((rows if passing is None else rows[passing.mask[rows]])[:size].tolist())

    def _passing(self, number: Space.ValueType, condition: bytes) -> FilterBitmap | None:
        """What passes and is not deleted, over the vectors of a space or over the table; None: everything."""
        alive = None if self._alive is None else self._alive[number]
        if not condition:
            return alive
        passing = self._filters.get(number, condition, lambda: FilterBitmap.from_mask(self._mask(number, condition)))
        return passing if alive is None else passing & alive

    def _mask(self, number: Space.ValueType, condition: bytes) -> Mask:
        if number == ALL:
            parsed = types_pb2.Filter.FromString(condition)
            return np.concatenate([mask_of(part, parsed) for part in self.table.parts])
        everywhere = self._filters.get(ALL, condition, lambda: FilterBitmap.from_mask(self._mask(ALL, condition)))
        return everywhere.mask[self.spaces[number].rows]


def opened(root: Path, manifest: Manifest, shard: int, place: space.DevicePlacement | None = None) -> Segment:
    """Map one shard of a version whose files have been verified; `place` puts its codes elsewhere, onto a GPU, say.

    Raises BadArtifact, naming the file, or what `place` raises.
    """
    directory = root / shard_name(shard)
    table = attributes.open_attributes(directory / ATTRIBUTES)
    if len(table) != manifest.products[shard]:
        raise BadArtifact(f"{directory / ATTRIBUTES}: has {len(table)} products, not {manifest.products[shard]}")
    spaces = {
        space_number(entry.name): space.opened(
            directory / entry.name,
            entry.indexes[shard],
            documents=entry.documents[shard],
            dim=entry.dim,
            rescore=entry.rescore,
            place=place,
        )
        for entry in manifest.spaces
    }
    return Segment(table, spaces)


def _searches(query: Query) -> list[tuple[_Kind, F32]]:
    """The searches by one vector that a query takes. Exact fusion takes none: all products are its candidates."""
    several = len(query.vectors) > 1
    if several and query.exact:
        return []
    k = fusion.depth(query.k) if several else query.k
    return [(_Kind(number, query.filter, k, query.k, query.exact), vector) for number, vector in query.vectors.items()]


def _by_space(looks: Iterable[Look]) -> tuple[Look, ...]:
    return tuple(sorted(looks, key=lambda look: look.space))
