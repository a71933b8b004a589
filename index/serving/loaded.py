"""One shard of one version, in memory and mapped: everything a request can ask of it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from index.search import grouping, space
from index.search.queries import Query, parsed
from index.search.scores import Neighbours
from index.search.segment import Segment
from index.storage import attributes, version
from index.storage.manifest import Manifest
from index.storage.names import ATTRIBUTES, number_of, shard_name
from lookalike.errors import BadArtifact, InvalidRequest
from lookalike.vectors import pack
from protos.lookalike.v1 import index_pb2, types_pb2
from protos.lookalike.v1.types_pb2 import Space

MAX_IDS = 1000
MAX_DESCRIPTIONS = 16  # Of at most 1 MiB each.
PAGE_ROWS = 500
# What one answer may hold of products; beyond it, queries get an error: a message has at most 32 MiB.
ANSWER_BYTES = 24 << 20


class LoadedShard:
    """For many threads at a time."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        shard: int,
        base: Segment,
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self.base = base
        self._dims = {number: searched.dim for number, searched in base.spaces.items()}

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
            documents=len(self.base.table),
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
        found = grouping.settled([query for query, _ in asked], self.base.nearest, self._chosen)
        room = ANSWER_BYTES
        for (query, hits), (ranking, places) in zip(asked, found, strict=True):
            room -= self._fill(hits, query, Neighbours(ranking.rows[places], ranking.scores[places]), room)
        return answer

    def _chosen(self, query: Query, found: Neighbours) -> list[int]:
        ids, rows = self.base.table.ids, found.rows
        return grouping.chosen(query, found.scores, lambda i: ids.text(rows[i]), lambda i: self._shop(rows[i]))

    def _shop(self, row: int) -> str:
        return self.base.table.shops.text(self.base.table.shop_codes[row])

    def _fill(self, hits: index_pb2.ShardHits, query: Query, found: Neighbours, room: int) -> int:
        """Write what was found, if there is room for it; how many bytes it takes."""
        ids, products = self.base.table.ids, self.base.table.products
        rows = found.rows.tolist()
        carried = [products[row] for row in rows]
        size = sum(map(len, carried))
        if size > room:
            hits.error = f"the products of this batch come to over {ANSWER_BYTES} bytes"
            return 0
        hits.ids.extend([ids.text(row) for row in rows])
        hits.scores = pack(found.scores)
        hits.products.extend(carried)
        if query.max_per_shop:
            hits.shops.extend(map(self._shop, rows))
        if query.explain:
            hits.explained = hits.scores if len(query.vectors) == 1 else pack(self.base.cosines(query, found.rows).T)
        return size

    def fetch(self, request: index_pb2.FetchRequest) -> index_pb2.FetchResponse:
        """Raises InvalidRequest when more is asked than fits into an answer."""
        most = MAX_DESCRIPTIONS if request.descriptions else MAX_IDS
        if len(request.ids) > most:
            raise InvalidRequest("ids", f"{len(request.ids)} ids, at most {most} may be")
        answer = index_pb2.FetchResponse()
        for product_id in request.ids:
            fetched = answer.products.add()
            if (row := self.base.table.ids.find(product_id.encode())) is None:
                continue
            fetched.product.ParseFromString(self.base.table.products[row])
            if request.descriptions:
                fetched.product.description = self.base.table.descriptions.text(row)
            for number in request.vectors:
                searched = self.base.spaces.get(number)
                if searched is not None and (vector := searched.vector(row)) is not None:
                    fetched.vectors.add(space=number, vector=pack(vector))
        return answer

    def count(self, condition: types_pb2.Filter) -> int:
        return self.base.count(condition.SerializeToString(deterministic=True))

    def page(self, condition: types_pb2.Filter, after: str) -> index_pb2.ShardListPage:
        """The next products that pass, by rising id, at most PAGE_ROWS; none: there are no more."""
        table = self.base.table
        rows = self.base.page(condition.SerializeToString(deterministic=True), after, PAGE_ROWS)
        return index_pb2.ShardListPage(
            ids=[table.ids.text(row) for row in rows], products=[table.products[row] for row in rows]
        )

    def sample(self, number: Space.ValueType, size: int) -> Iterator[index_pb2.ShardQuery]:
        """Queries by vectors spread over a space, for warming up."""
        searched = self.base.spaces[number]
        for at in np.linspace(0, len(searched) - 1, min(size, len(searched)), dtype=np.int64):
            vector = index_pb2.QueryVector(space=number, vector=pack(searched.vectors[at]))
            yield index_pb2.ShardQuery(vectors=[vector], k=10)


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
            directory / entry.name,
            entry.indexes[shard],
            documents=entry.documents[shard],
            dim=entry.dim,
            rescore=entry.rescore,
        )
        for entry in manifest.spaces
    }
    return LoadedShard(manifest=manifest, shard=shard, base=Segment(table, spaces))
