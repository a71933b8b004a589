"""One shard of one version, in memory and mapped: everything a request can ask of it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from index import attributes, space, version
from index.attributes import Attributes
from index.filters import Mask, Passing, PassingCache, mask_of
from index.manifest import Manifest
from index.names import ATTRIBUTES, number_of, shard_name
from index.scores import Neighbours
from index.space import SpaceIndex
from lookalike.errors import BadArtifact, InvalidRequest
from lookalike.vectors import F32, pack, unpack
from protos.lookalike.v1 import index_pb2, types_pb2
from protos.lookalike.v1.types_pb2 import Space

# Over-fetching included: a gateway asks for at most 1,000 hits and 16 examples.
MAX_K = 4096
MAX_IDS = 1000
MAX_DESCRIPTIONS = 16  # Of at most 1 MiB each.
PAGE_ROWS = 500
# What one answer may hold of products; beyond it, queries get an error: a message has at most 32 MiB.
ANSWER_BYTES = 24 << 20
_NORM_TOLERANCE = 1e-3
_ALL = Space.SPACE_AUTO  # The key under which filters over the whole table, not over one space, are cached.


@dataclass(frozen=True, slots=True)
class _Question:
    """What queries that are searched together have in common. Of k too: an answer must not depend on its company."""

    space: Space.ValueType
    filter: bytes
    k: int
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
        groups: dict[_Question, list[tuple[int, F32]]] = {}
        errors: dict[int, str] = {}
        for i, query in enumerate(queries):
            try:
                vector = self._vector_of(query)
            except ValueError as error:
                errors[i] = str(error)
                continue
            condition = query.filter.SerializeToString(deterministic=True) if query.HasField("filter") else b""
            question = _Question(query.space, condition, query.k, query.exact)
            groups.setdefault(question, []).append((i, vector))
        found: dict[int, Neighbours] = {}
        for question, members in groups.items():
            vectors = np.stack([vector for _, vector in members])
            passing = self._passing(question.space, question.filter)
            neighbours = self.spaces[question.space].search(vectors, question.k, passing, audit=question.exact)
            found.update(zip((i for i, _ in members), neighbours, strict=True))
        return self._answer(len(queries), found, errors)

    def _vector_of(self, query: index_pb2.ShardQuery) -> F32:
        """Raises ValueError with what is wrong with the query."""
        if (searched := self.spaces.get(query.space)) is None:
            raise ValueError(f"no space {query.space} here")
        if len(query.vector) != 4 * searched.dim:
            raise ValueError(f"a vector of {len(query.vector)} bytes in a space of {searched.dim} dimensions")
        if query.k > MAX_K:
            raise ValueError(f"k is {query.k}, at most {MAX_K} may be")
        vector: F32 = unpack(query.vector, searched.dim)[0]
        # Written so that NaN and infinity fail too.
        if not abs(float(np.dot(vector, vector)) - 1) <= _NORM_TOLERANCE:
            raise ValueError("the vector is not of unit norm")
        return vector

    def _answer(
        self, count: int, found: dict[int, Neighbours], errors: dict[int, str]
    ) -> index_pb2.ShardSearchResponse:
        answer = index_pb2.ShardSearchResponse()
        ids, products = self.table.ids, self.table.products
        room = ANSWER_BYTES
        for i in range(count):
            hits = answer.results.add()
            if (neighbours := found.get(i)) is None:
                hits.error = errors[i]
                continue
            rows = neighbours.rows.tolist()
            carried = [products[row] for row in rows]
            size = sum(map(len, carried))
            if size > room:
                hits.error = f"the products of this batch come to over {ANSWER_BYTES} bytes"
                continue
            room -= size
            hits.ids.extend([ids.text(row) for row in rows])
            hits.scores = pack(neighbours.scores)
            hits.products.extend(carried)
        return answer

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
            yield index_pb2.ShardQuery(space=number, vector=pack(searched.vectors[at]), k=10)


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
