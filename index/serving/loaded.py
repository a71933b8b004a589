"""One shard of one version, in memory and mapped: everything a request can ask of it. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from index.backends import gpu
from index.live.live import Live
from index.search import grouping, segment
from index.search.queries import Query, parsed
from index.search.segment import Look, Segment
from index.search.space import DevicePlacement
from index.search.view import Hits, View
from index.storage import version
from index.storage.manifest import Manifest
from index.storage.names import shard_name
from lookalike.errors import BadArtifact, InvalidRequest
from lookalike.limits import MAX_IDS
from lookalike.spaces import space_number
from lookalike.v1 import index_pb2, types_pb2
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import pack

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
        live: Live | None = None,
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self.base = base  # As it was built.
        self.live = live  # None: nothing changes.
        self._built = View((base,))
        self._dims = {number: searched.dim for number, searched in base.spaces.items()}

    @property
    def view(self) -> View:
        """What there is now. A call takes it once: what comes later is of a later view."""
        return self._built if self.live is None else self.live.view

    def taking(self, live: Live) -> LoadedShard:
        """The same with its updates."""
        return LoadedShard(manifest=self.manifest, shard=self.shard, base=self.base, live=live)

    def state(self) -> index_pb2.ShardState:
        view = self.view
        spaces = [
            index_pb2.SpaceState(
                space=number,
                dim=entry.dim,
                encoder=entry.encoder,
                documents=entry.documents,
                live=view.vectors(number),
                device=gpu.device_of(self.base.spaces[number].codes),
            )
            for entry in self.manifest.spaces
            for number in [space_number(entry.name)]
        ]
        return index_pb2.ShardState(
            version=self.manifest.version,
            shard=self.shard,
            shards=self.manifest.shards,
            spaces=spaces,
            documents=len(view),
            sequence=self.live.sequence if self.live else 0,
            live=self.live.state() if self.live else None,
        )

    def search(self, queries: Sequence[index_pb2.ShardQuery]) -> index_pb2.ShardSearchResponse:
        """One ShardHits for each query; what is wrong with a query is said in its own."""
        answer, view = index_pb2.ShardSearchResponse(), self.view
        asked: list[tuple[Query, index_pb2.ShardHits]] = []
        for given in queries:
            hits = answer.results.add()
            try:
                asked.append((parsed(given, self._dims), hits))
            except ValueError as error:
                hits.error = str(error)
        found = grouping.settled([query for query, _ in asked], view, _chosen)
        room = ANSWER_BYTES
        for (query, hits), (ranking, chosen) in zip(asked, found, strict=True):
            whole = len(chosen) == len(ranking.rows)
            room -= _fill(hits, view, query, ranking if whole else ranking.only(chosen), room)
        return answer

    def fetch(self, request: index_pb2.FetchRequest) -> index_pb2.FetchResponse:
        """Raises InvalidRequest when more is asked than fits into an answer."""
        most = MAX_DESCRIPTIONS if request.descriptions else MAX_IDS
        if len(request.ids) > most:
            raise InvalidRequest("ids", f"{len(request.ids)} ids, at most {most} may be")
        answer, view = index_pb2.FetchResponse(), self.view
        for product_id in request.ids:
            fetched = answer.products.add()
            if (place := view.find(product_id)) is None:
                continue
            fetched.product.ParseFromString(place.product)
            if request.descriptions:
                fetched.product.description = place.description
            for number in request.vectors:
                if number in self._dims and (vector := place.vector(number)) is not None:
                    fetched.vectors.add(space=number, vector=pack(vector))
        return answer

    def count(self, condition: types_pb2.Filter) -> int:
        return self.view.count(condition.SerializeToString(deterministic=True))

    def page(self, condition: types_pb2.Filter, after: str) -> index_pb2.ShardListPage:
        """The next products that pass, by rising id, at most PAGE_ROWS; none: there are no more."""
        page = self.view.page(condition.SerializeToString(deterministic=True), after, PAGE_ROWS)
        return index_pb2.ShardListPage(
            ids=[product_id for product_id, _ in page], products=[place.product for _, place in page]
        )

    def sample(self, number: Space.ValueType, size: int) -> Iterator[index_pb2.ShardQuery]:
        """Queries by vectors spread over a space, for warming up."""
        searched = self.base.spaces[number]
        for at in np.linspace(0, len(searched) - 1, min(size, len(searched)), dtype=np.int64):
            vector = index_pb2.QueryVector(space=number, vector=pack(searched.vectors[at]))
            yield index_pb2.ShardQuery(vectors=[vector], k=10)


def _chosen(query: Query, found: Hits) -> Sequence[int]:
    ids = found.ids if query.without else []
    shops = found.shops if query.max_per_shop else []
    return grouping.chosen(query, found.scores, ids.__getitem__, shops.__getitem__)


def _plan(look: Look) -> types_pb2.SearchPlan:
    told = types_pb2.SearchPlan(space=look.space, documents=look.documents, matching=look.passing)
    if look.plan is not None:
        told.recipe, told.depth, told.search_parameter = look.recipe, look.plan.depth, look.plan.rung.search_parameter
        told.candidates = look.plan.candidates
    return told


def _fill(hits: index_pb2.ShardHits, view: View, query: Query, found: Hits, room: int) -> int:
    """Write what was found, if there is room for it; how many bytes it takes."""
    carried = found.products
    size = sum(map(len, carried))
    if size > room:
        hits.error = f"the products of this batch come to over {ANSWER_BYTES} bytes"
        return 0
    hits.ids.extend(found.ids)
    hits.scores = pack(found.scores)
    hits.products.extend(carried)
    if query.max_per_shop:
        hits.shops.extend(found.shops)
    if query.explain:
        hits.cosines = hits.scores if len(query.vectors) == 1 else pack(view.cosines(query, found.places).T)
        hits.plans.extend(map(_plan, found.looks))
    return size


def opened(location: Path, shard: int, wanted: str = "") -> LoadedShard:
    """Verify and map a shard of the version `wanted`, or of the current one. Raises BadArtifact, naming the file."""
    manifest = version.read_manifest(location, wanted or version.read_current(location))
    version.verify(location / manifest.version, manifest, prefix=shard_name(shard) + "/")
    return mapped(location, manifest, shard)


def mapped(location: Path, manifest: Manifest, shard: int, place: DevicePlacement | None = None) -> LoadedShard:
    """A shard whose files are verified; `place` puts its codes elsewhere, onto a GPU, say.

    Raises BadArtifact where the version has no such shard, or not what it says; what `place` raises.
    """
    if not 0 <= shard < manifest.shards:
        raise BadArtifact(f"{location}: version {manifest.version} has shards 0..{manifest.shards - 1}, not {shard}")
    base = segment.opened(location / manifest.version, manifest, shard, place)
    return LoadedShard(manifest=manifest, shard=shard, base=base)
