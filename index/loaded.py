"""One shard of one version, in memory and mapped: everything a request can ask of it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from index import attributes, fusion, space, version
from index.attributes import Attributes
from index.filters import Mask, Passing, PassingCache, mask_of
from index.manifest import Manifest
from index.names import ATTRIBUTES, number_of, shard_name
from index.queries import Query, parsed
from index.scores import I64, Neighbours, best_of, chunks_of
from index.space import SpaceIndex
from lookalike.errors import BadArtifact, InvalidRequest
from lookalike.vectors import F32, pack
from protos.lookalike.v1 import index_pb2, types_pb2
from protos.lookalike.v1.types_pb2 import Space

MAX_IDS = 1000
MAX_DESCRIPTIONS = 16  # Of at most 1 MiB each.
PAGE_ROWS = 500
# What one answer may hold of products; beyond it, queries get an error: a message has at most 32 MiB.
ANSWER_BYTES = 24 << 20
_ALL = Space.SPACE_AUTO  # The key under which filters over the whole table, not over one space, are cached.


class _Kind(NamedTuple):
    """What searches that are done together have in common. Of k too: an answer must not depend on its company."""

    space: Space.ValueType
    filter: bytes
    k: int
    enough: int
    exact: bool


class LoadedShard:
    """For many threads at a time."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        shard: int,
        table: Attributes,
        spaces: dict[Space.ValueType, SpaceIndex],
        filters: int = 64,
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self.table = table
        self.spaces = spaces
        self._dims = {number: searched.dim for number, searched in spaces.items()}
        self._filters = PassingCache(filters)

    def state(self) -> index_pb2.ShardState:
        spaces = [
            index_pb2.SpaceState(
                space=number_of(entry.name), dim=entry.dim, encoder=entry.encoder, documents=entry.documents
            )
            for entry in self.manifest.spaces
        ]
        return index_pb2.ShardState(
            version=self.manifest.version,
            shard=self.shard,
            shards=self.manifest.shards,
            spaces=spaces,
            documents=len(self.table),
        )

    def search(self, queries: Sequence[index_pb2.ShardQuery]) -> index_pb2.ShardSearchResponse:
        """One ShardHits for each query; what is wrong with a query is said in its own."""
        answer = index_pb2.ShardSearchResponse()
        asked: list[tuple[Query, index_pb2.ShardHits]] = []
        for given in queries:
            hits = answer.results.add()
            try:
                asked.append((parsed(given, self._dims), hits))
            except ValueError as error:
                hits.error = str(error)
        found, room = self._found([query for query, _ in asked]), ANSWER_BYTES
        for (query, hits), neighbours in zip(asked, found, strict=True):
            room -= self._fill(hits, query, neighbours, room)
        return answer

    def _found(self, queries: Sequence[Query]) -> list[Neighbours]:
        """The answer to each query. Searches of one kind are done together, whichever queries they are for."""
        groups: dict[_Kind, list[tuple[int, F32]]] = {}
        for i, query in enumerate(queries):
            for kind, vector in _searches(query):
                groups.setdefault(kind, []).append((i, vector))
        nearest: list[list[Neighbours]] = [[] for _ in queries]
        for kind, members in groups.items():
            vectors = np.stack([vector for _, vector in members])
            passing = self._passing(kind.space, kind.filter)
            searched = self.spaces[kind.space]
            found = searched.search(vectors, kind.k, passing, audit=kind.exact, enough=kind.enough)
            for (i, _), neighbours in zip(members, found, strict=True):
                nearest[i].append(neighbours)
        return [
            per_space[0] if len(query.vectors) == 1 else self._fused(query, per_space)
            for query, per_space in zip(queries, nearest, strict=True)
        ]

    def _fused(self, query: Query, nearest: Sequence[Neighbours]) -> Neighbours:
        """The best by all the query's spaces together, among the nearest in each."""
        if query.exact:
            candidates = self._everything(query)
        else:
            candidates = np.unique(np.concatenate([found.rows for found in nearest]))
        return best_of(
            chunks_of(candidates), query.k, lambda rows: fusion.fused(self._cosines(query, rows), query.shares)
        )

    def _everything(self, query: Query) -> I64:
        """The rows that pass and have a vector in any of the query's spaces."""
        candidates = np.zeros(len(self.table), dtype=np.bool_)
        for number in query.vectors:
            rows, passing = self.spaces[number].rows, self._passing(number, query.filter)
            candidates[rows if passing is None else rows[passing.rows]] = True
        return np.flatnonzero(candidates)

    def _cosines(self, query: Query, rows: I64) -> F32:
        """(s, c): in each of the query's spaces with each of the rows."""
        return np.stack([self.spaces[number].cosines(vector, rows) for number, vector in query.vectors.items()])

    def _fill(self, hits: index_pb2.ShardHits, query: Query, found: Neighbours, room: int) -> int:
        """Write what was found, if there is room for it; how many bytes it takes."""
        ids, products = self.table.ids, self.table.products
        rows = found.rows.tolist()
        carried = [products[row] for row in rows]
        size = sum(map(len, carried))
        if size > room:
            hits.error = f"the products of this batch come to over {ANSWER_BYTES} bytes"
            return 0
        hits.ids.extend([ids.text(row) for row in rows])
        hits.scores = pack(found.scores)
        hits.products.extend(carried)
        if query.explain:
            hits.explained = hits.scores if len(query.vectors) == 1 else pack(self._cosines(query, found.rows).T)
        return size

    def fetch(self, request: index_pb2.FetchRequest) -> index_pb2.FetchResponse:
        """Raises InvalidRequest when more is asked than fits into an answer."""
        most = MAX_DESCRIPTIONS if request.descriptions else MAX_IDS
        if len(request.ids) > most:
            raise InvalidRequest("ids", f"{len(request.ids)} ids, at most {most} may be")
        answer = index_pb2.FetchResponse()
        for product_id in request.ids:
            fetched = answer.products.add()
            if (row := self.table.ids.find(product_id.encode())) is None:
                continue
            fetched.product.ParseFromString(self.table.products[row])
            if request.descriptions:
                fetched.product.description = self.table.descriptions.text(row)
            for number in request.vectors:
                searched = self.spaces.get(number)
                if searched is not None and (vector := searched.vector(row)) is not None:
                    fetched.vectors.add(space=number, vector=pack(vector))
        return answer

    def count(self, condition: types_pb2.Filter) -> int:
        passing = self._passing(_ALL, condition.SerializeToString(deterministic=True))
        return len(self.table) if passing is None else passing.count

    def page(self, condition: types_pb2.Filter, after: str) -> index_pb2.ShardListPage:
        """The next products that pass, by rising id, at most PAGE_ROWS; none: there are no more."""
        passing = self._passing(_ALL, condition.SerializeToString(deterministic=True))
        start = self.table.ids.after(after.encode()) if after else 0
        rows = list(islice(_from(start, len(self.table), passing), PAGE_ROWS))
        return index_pb2.ShardListPage(
            ids=[self.table.ids.text(row) for row in rows], products=[self.table.products[row] for row in rows]
        )

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

    def sample(self, number: Space.ValueType, size: int) -> Iterator[index_pb2.ShardQuery]:
        """Queries by vectors spread over a space, for warming up."""
        searched = self.spaces[number]
        for at in np.linspace(0, len(searched) - 1, min(size, len(searched)), dtype=np.int64):
            vector = index_pb2.QueryVector(space=number, vector=pack(searched.vectors[at]))
            yield index_pb2.ShardQuery(vectors=[vector], k=10)


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


def opened(location: Path, shard: int, wanted: str = "") -> LoadedShard:
    """Verify and map a shard of the version `wanted`, or of the current one. Raises BadArtifact, naming the file."""
    manifest = version.read(location, wanted or version.current(location))
    if not 0 <= shard < manifest.shards:
        raise BadArtifact(f"{location}: version {manifest.version} has shards 0..{manifest.shards - 1}, not {shard}")
    root = location / manifest.version
    version.verify(root, manifest, below=shard_name(shard) + "/")
    directory = root / shard_name(shard)
    table = attributes.opened(directory / ATTRIBUTES)
    if len(table) != manifest.products[shard]:
        raise BadArtifact(f"{directory / ATTRIBUTES}: has {len(table)} products, not {manifest.products[shard]}")
    spaces = {
        number_of(entry.name): space.opened(
            directory / entry.name, entry.indexes[shard], documents=entry.documents[shard], dim=entry.dim
        )
        for entry in manifest.spaces
    }
    return LoadedShard(manifest=manifest, shard=shard, table=table, spaces=spaces)
